"""pyarrow's `s3://` locations, which pandas uses too: by s3fs where the function has it.

pyarrow's own S3 client is compiled, and would need sockets and keys. s3fs goes through aiobotocore, so over the arena.
"""

import importlib.util
from typing import Any

from ...imports import when_imported


def install() -> None:
    """Patch `pyarrow.fs`, should a function import it."""
    when_imported("pyarrow.fs", _patch)


def _patch(module: Any) -> None:
    original = module.FileSystem
    if importlib.util.find_spec("s3fs") is None:
        return

    class Kind(type):
        """Instances of the original are instances of what stands for it."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original)

    class FileSystem(metaclass=Kind):
        __doc__ = original.__doc__

        @staticmethod
        def from_uri(uri: Any) -> Any:
            """As the original, but for S3 locations without options of pyarrow's own."""
            text = str(uri)
            if not text.startswith("s3://") or "?" in text or "@" in text:
                return original.from_uri(uri)
            import s3fs

            handler = module.FSSpecHandler(s3fs.S3FileSystem())
            return module.PyFileSystem(handler), text.removeprefix("s3://")

    FileSystem.__module__, FileSystem.__qualname__ = original.__module__, original.__qualname__
    module.FileSystem = FileSystem
