"""The API of AWS's package `snapshot-restore-py`, which Lambda's runtimes bring along, as this one does.

A package of that name in the function's code or layers comes first.
"""

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., object])
_Registered = tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]

_before_snapshot: list[_Registered] = []
_after_restore: list[_Registered] = []


def register_before_snapshot(func: _F, *args: Any, **kwargs: Any) -> _F:
    """Have `func(*args, **kwargs)` run before the snapshot: last registered, first run. Also a decorator."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(func: _F, *args: Any, **kwargs: Any) -> _F:
    """Have `func(*args, **kwargs)` run in every restored instance: first registered, first run. Also a decorator."""
    _after_restore.append((func, args, kwargs))
    return func


def get_before_snapshot() -> list[_Registered]:
    """What is to run before the snapshot, as it was registered."""
    return _before_snapshot


def get_after_restore() -> list[_Registered]:
    """What is to run in a restored instance, as it was registered."""
    return _after_restore
