"""The guest's half of this package, in a directory of its own: an instance sees nothing of the host's half."""

from __future__ import annotations

import shutil
from pathlib import Path

from nexus.errors import NexusError
from nexus.packaging.bytecode import compile_tree
from nexus.packaging.depot import Depot, text_digest, tree_digest
from nexus.packaging.requirements import python_version

# A whole package, not a part of a namespace: those yield to any package of the name, wherever it is on the path.
_PACKAGE = '"""The guest\'s half of Nexus."""\n'
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "tests")


def add_runtime(depot: Depot, python: Path) -> Path:
    """Directory that holds ``nexus/guest`` and nothing else."""
    guest = Path(__file__).parent.parent / "guest"
    if not (guest / "runtime").exists() and not (guest / "runtime.py").exists():
        raise NexusError(f"the guest runtime is missing in {guest}", "install Nexus again")

    def fill(directory: Path) -> None:
        shutil.copytree(guest, directory / "nexus" / "guest", ignore=_IGNORED)
        (directory / "nexus" / "__init__.py").write_text(_PACKAGE, encoding="utf-8")
        compile_tree(python, directory)

    return depot.add("runtime", text_digest(_PACKAGE, tree_digest_of_sources(guest), python_version(python)), fill)


def tree_digest_of_sources(root: Path) -> str:
    """Digest of a package's files without its bytecode."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nexus-runtime-") as name:
        copy = Path(name) / "copy"
        shutil.copytree(root, copy, ignore=_IGNORED)
        return tree_digest(copy)
