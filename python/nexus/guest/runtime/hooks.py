"""The runtime hooks of AWS's `snapshot_restore_py`, run where Lambda's SnapStart runs them."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Registered = list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]]
_MODULE = "snapshot_restore_py"
_OWN = __file__.rpartition("/")[0] + f"/{_MODULE}.py"


class _Finder:
    """Last on `sys.meta_path`: a package of the function's own comes first."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(_MODULE, _OWN) if name == _MODULE else None


def install() -> None:
    """Let functions import `snapshot_restore_py`, as on Lambda, whether they bring it or not."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _registered(getter: str) -> Registered:
    module = sys.modules.get(_MODULE)
    get = getattr(module, getter, None)
    return list(get()) if callable(get) else []


def before_snapshot() -> None:
    """Last registered, first run. An exception fails the initialisation."""
    for function, args, kwargs in reversed(_registered("get_before_snapshot")):
        function(*args, **kwargs)


def after_restore() -> None:
    """First registered, first run. An exception fails the start of the instance."""
    for function, args, kwargs in _registered("get_after_restore"):
        function(*args, **kwargs)
