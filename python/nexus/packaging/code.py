"""A function's own code: the handler's file, or a directory with it."""

from __future__ import annotations

import shutil
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
_IGNORED = ("__pycache__", "*.pyc", ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache")


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
            shutil.copytree(source.path, copy, ignore=shutil.ignore_patterns(*_IGNORED))
        _check_size(source.path, (p.lstat().st_size for p in copy.rglob("*")))
        normalise(copy)
        key = text_digest(tree_digest(copy), python.name)

        def fill(directory: Path) -> None:
            shutil.copytree(copy, directory, symlinks=True, dirs_exist_ok=True)
            compile_tree(python, directory)

        return depot.add("code", key, fill)


def _check_size(path: Path, sizes: Iterable[int]) -> None:
    total = sum(sizes)
    if total > _LARGEST:
        message = f"{path} holds {total >> 20} MiB of code; a function may have {_LARGEST >> 20}"
        raise NexusError(message, "keep data in the object store, and packages in --requirements")
