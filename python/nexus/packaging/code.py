"""A function's own code: the handler's file, or a directory with it."""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nexus.errors import NexusError
from nexus.packaging.bytecode import compile_tree
from nexus.packaging.depot import Depot, normalise, text_digest, tree_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

# Lambda's limit for an unzipped package, in bytes.
_LARGEST = 250 << 20
# The last one: Emacs' locks, links that lead nowhere beside each file that is being edited.
_IGNORED = ("__pycache__", "*.pyc", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".#*")


@dataclass(frozen=True)
class Source:
    """Where a handler is.

    :param path: a Python file, or a directory of code.
    :param handler: as Lambda names it: ``module.function``.
    """

    path: Path
    handler: str

    @property
    def default_name(self) -> str:
        """Name that the function gets where the user gives none."""
        return self.path.stem if self.path.is_file() else self.path.resolve().name

    @classmethod
    def parse(cls, text: str) -> Source:
        """From ``file.py:function`` or ``directory:module.function``.

        :raises NexusError: it is neither, or the file does not exist.
        """
        location, colon, handler = text.rpartition(":")
        if not colon or not location or not handler:
            raise NexusError(f"{text!r} does not name a handler", "write it as file.py:function or directory:module.function")
        path = Path(location)
        if path.is_dir():
            if "." not in handler:
                raise NexusError(f"{text!r} does not name a handler", "for a directory write directory:module.function")
            return cls(path, handler)
        if not path.is_file():
            raise NexusError(f"there is no file {path}", "check the path before the colon")
        if path.suffix != ".py" or not path.stem.isidentifier():
            raise NexusError(f"{path} is no Python module", "give the handler's file a name such as thumbnail.py")
        return cls(path, f"{path.stem}.{handler}")


def add_code(depot: Depot, source: Source, python: Path) -> Path:
    """Copy the code into the depot, with its bytecode; the same content gives the same directory."""
    with TemporaryDirectory(prefix="nexus-code-") as name:
        copy = Path(name) / "code"
        if source.path.is_file():
            copy.mkdir()
            shutil.copy(source.path, copy)
        else:
            _copy_directory(source.path, copy)
        _check_size(source.path, (p.lstat().st_size for p in copy.rglob("*")))
        normalise(copy)
        key = text_digest(tree_digest(copy), python.name)

        def fill(directory: Path) -> None:
            shutil.copytree(copy, directory, symlinks=True, dirs_exist_ok=True)
            compile_tree(python, directory)

        return depot.add("code", key, fill)


def _copy_directory(source: Path, target: Path) -> None:
    """Copy a directory with what its links lead to, as a zip file for Lambda has it.

    :raises NexusError: something in it cannot be part of a function; it is named.
    """
    # A directory, where it goes, and the directories that it is in.
    pending: list[tuple[Path, Path, frozenset[tuple[int, int]]]] = [(source, target, frozenset())]
    while pending:
        directory, place, above = pending.pop()
        try:
            status = directory.stat()
            within = above | {(status.st_dev, status.st_ino)}
            place.mkdir()
            for entry in sorted(directory.iterdir()):
                if any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in _IGNORED):
                    continue
                kind = _kind(entry, within)
                if kind == stat.S_IFDIR:
                    pending.append((entry, place / entry.name, within))
                else:
                    shutil.copy(entry, place / entry.name)
        except OSError as error:
            message = f"{error.filename or directory} cannot be copied ({error.strerror or error})"
            raise NexusError(message, "a function's code needs to be readable, and its copy room on the disk") from error


def _kind(entry: Path, within: frozenset[tuple[int, int]]) -> int:
    """S_IFDIR or S_IFREG."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise NexusError(f"{os.fsencode(entry)!r} has a name that is not UTF-8", "rename it, or move it elsewhere") from None
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink():
            raise NexusError(f"{entry} is a link that leads nowhere", "mend it, or delete it") from error
        raise
    kind = stat.S_IFMT(status.st_mode)
    if (status.st_dev, status.st_ino) in within:
        raise NexusError(f"{entry} is a link to a directory that it is in", "delete it")
    if kind not in {stat.S_IFDIR, stat.S_IFREG}:
        raise NexusError(f"{entry} is neither a file nor a directory", "move it elsewhere: it cannot be part of a function")
    return kind


def _check_size(path: Path, sizes: Iterable[int]) -> None:
    total = sum(sizes)
    if total > _LARGEST:
        message = f"{path} holds {total >> 20} MiB of code; a function may have {_LARGEST >> 20}"
        raise NexusError(message, "keep data in the object store, and packages in --requirements")
