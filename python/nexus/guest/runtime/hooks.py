"""The runtime hooks of AWS's `snapshot_restore_py`, run where Lambda's SnapStart runs them."""

import sys
from collections.abc import Callable
from typing import Any

Registered = list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]]


def _registered(getter: str) -> Registered:
    module = sys.modules.get("snapshot_restore_py")
    get = getattr(module, getter, None)
    return list(get()) if callable(get) else []


def before_snapshot() -> None:
    """Last registered, first run. An exception fails the initialisation."""
    for function, args, kwargs in reversed(_registered("get_before_snapshot")):
        function(*args, **kwargs)


def after_restore() -> None:
    """First registered, first run."""
    for function, args, kwargs in _registered("get_after_restore"):
        function(*args, **kwargs)
