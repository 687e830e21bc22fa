"""The depot: directories that are named by what is in them, and never change once they are there.

    <state>/packages/<kind>/<digest>/       kind: code, requirements, layers, runtime

A directory is filled under a temporary name and appears by one rename, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DIRECTORY, _FILE, _PROGRAM = 0o755, 0o644, 0o755
_EXECUTABLE = 0o111


class Depot:
    """Content-addressed directories below ``<state>/packages``.

    ``$NEXUS_PACKAGES`` names another place, which several nodes may share.
    """

    def __init__(self, state: Path) -> None:
        chosen = os.environ.get("NEXUS_PACKAGES")
        self.root = Path(chosen).absolute() if chosen else state / "packages"
        # What one node does not use, another one may.
        self.shared = bool(chosen)

    def add(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """The directory ``kind/key``, made by ``fill`` where it is missing.

        :param key: digest of everything that decides the content.
        :param fill: writes the content into the (empty) directory it is given.
        """
        final = self.root / kind / key
        if final.is_dir():
            # The time of last use decides what `prune` may delete.
            os.utime(final)
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{key}.{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            fill(temporary)
            normalise(temporary)
            try:
                temporary.rename(final)
            except OSError:
                # Somebody else was first; the content is the same.
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def entries(self) -> Iterator[Path]:
        """Every directory in the depot."""
        with contextlib.suppress(FileNotFoundError):
            for kind in sorted(self.root.iterdir()):
                yield from (entry for entry in sorted(kind.iterdir()) if not entry.name.startswith("."))


def normalise(root: Path) -> None:
    """Give every file and directory the same modes, readable by the users that instances run as."""
    for directory, _, names in os.walk(root):
        Path(directory).chmod(_DIRECTORY)
        for name in names:
            path = Path(directory) / name
            if not path.is_symlink():
                path.chmod(_PROGRAM if path.stat().st_mode & _EXECUTABLE else _FILE)


def tree_digest(root: Path) -> str:
    """Digest of a tree: paths, contents and which files are executable. Links count by their target's text."""
    total = hashlib.sha256()
    for directory, subdirectories, names in os.walk(root):
        subdirectories.sort()
        for name in sorted(names):
            path = Path(directory) / name
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                total.update(f"L {relative} {path.readlink()}\0".encode())
                continue
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            mode = "X" if path.stat().st_mode & _EXECUTABLE else "F"
            total.update(f"{mode} {relative} {content}\0".encode())
    return total.hexdigest()[:32]


def text_digest(*parts: str) -> str:
    """Digest of some texts, each told apart from the next."""
    total = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        total.update(len(encoded).to_bytes(8, "little"))
        total.update(encoded)
    return total.hexdigest()[:32]
