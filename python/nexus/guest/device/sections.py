"""Handlers of signals wait while a call keeps account of what it holds.

A handler may raise between any two calls of the interpreter: heap and tickets that were just taken would be nobody's then, or half
noted. And it may make a call of its own in the middle of another. So none runs inside a section (`with guard`) but while that waits
(`with Waiting(guard)`), and those that came meanwhile run at its end. `watch` makes it so for the handlers that a program sets.
"""

import signal
import threading
from typing import TYPE_CHECKING, Any

from .native import native


class PythonGuard:
    """Guards nothing: what there is where the native module cannot be loaded."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass

    def watch(self) -> None:
        """Handlers run in this thread, and are `Deferring` from now on."""


class PythonWaiting(PythonGuard):
    """A wait inside a section of a guard."""

    __slots__ = ()

    def __init__(self, guard: PythonGuard) -> None:
        pass


if TYPE_CHECKING or native is None:
    Guard, Waiting = PythonGuard, PythonWaiting
else:
    Guard, Waiting = native.Guard, native.Waiting

# Of this process.
guard = Guard()
waiting = Waiting(guard)


class _Signals:
    """Stands for the module `_signal` in `signal`: a program's handlers are wrapped when they are set, and shown as they were."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def signal(self, number: Any, handler: Any) -> Any:
        return _bare(self._module.signal(number, native.Deferring(guard, handler) if callable(handler) else handler))

    def getsignal(self, number: Any) -> Any:
        return _bare(self._module.getsignal(number))


def _bare(handler: Any) -> Any:
    return handler.handler if isinstance(handler, native.Deferring) else handler


def watch() -> None:
    """Have the handlers of signals wait for the ends of sections: those that are set, and all that will be. In the main thread."""
    module: Any = signal
    if native is None or isinstance(module._signal, _Signals) or threading.current_thread() is not threading.main_thread():
        return
    signals = module._signal = _Signals(module._signal)
    guard.watch()
    for number in signal.valid_signals():
        handler = signals.getsignal(number)
        if callable(handler):
            signals.signal(number, handler)
