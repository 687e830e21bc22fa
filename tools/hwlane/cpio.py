"""The archive a kernel unpacks as its first file system: cpio, format newc."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_TRAILER = "TRAILER!!!"


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Files as an archive.

    :param files: path without a leading slash to (permissions, content); directories are made as needed.
    """
    parts: list[bytes] = []
    made: set[str] = set()
    for path, (mode, content) in files.items():
        names = path.split("/")
        for depth in range(1, len(names)):
            directory = "/".join(names[:depth])
            if directory not in made:
                made.add(directory)
                parts.append(_entry(len(parts) + 1, directory, stat.S_IFDIR | 0o755, b""))
        parts.append(_entry(len(parts) + 1, path, stat.S_IFREG | mode, content))
    parts.append(_entry(0, _TRAILER, 0, b""))
    return b"".join(parts)


def _entry(inode: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(head + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
