"""Deletes what no deployed function uses any more."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nexus.packaging.depot import Depot

# A deployment under way has made its directories but is not yet known to the node.
_YOUNG_S = 3600


def prune(depot: Depot, functions: Iterable[dict[str, Any]], now: float | None = None) -> list[Path]:
    """Delete code versions and requirements that none of ``functions`` uses; what was deleted.

    Layers and runtimes are shared and few; they go by the same rule.

    :param functions: deployments as the node lists them (``code``, ``layers``, ``runtime``).
    """
    if depot.shared:
        return []
    used: set[Path] = set()
    for function in functions:
        deployment = function.get("deployment", function)
        paths = [deployment.get("code"), deployment.get("runtime"), *(deployment.get("layers") or ())]
        used.update(Path(path) for path in paths if path)
    if not used:
        # A node that does not say what its functions use is no licence to delete.
        functions = list(functions)
        if functions:
            return []
    oldest = (time.time() if now is None else now) - _YOUNG_S
    deleted = []
    for entry in depot.entries():
        if entry not in used and entry.stat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True)
            deleted.append(entry)
    return deleted
