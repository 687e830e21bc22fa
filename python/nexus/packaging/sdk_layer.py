"""The boto3 layer: the real AWS SDK for Python, as installed and pinned with this package."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from nexus.errors import NexusError
from nexus.packaging.bytecode import compile_tree
from nexus.packaging.depot import Depot, text_digest
from nexus.packaging.requirements import python_version

DISTRIBUTIONS = ("boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "urllib3", "six")


def add_sdk_layer(depot: Depot, python: Path) -> Path:
    """Directory with boto3 and what it needs, copied from this environment; no network is used.

    :raises NexusError: one of the distributions is not installed.
    """
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            message = f"the package {name} is missing beside Nexus"
            raise NexusError(message, "install Nexus again with its dependencies") from None
    versions = " ".join(f"{d.metadata['Name']}=={d.version}" for d in found)

    def fill(directory: Path) -> None:
        for distribution in found:
            _copy(distribution, directory)
        compile_tree(python, directory)

    return depot.add("layers", text_digest(versions, python_version(python)), fill)


def _copy(distribution: metadata.Distribution, directory: Path) -> None:
    files = distribution.files
    if files is None:
        message = f"the installed package {distribution.metadata['Name']} has no list of its files"
        raise NexusError(message, "install it with pip or uv")
    for entry in files:
        # Scripts lie outside the library directory; bytecode is made anew.
        if ".." in entry.parts or entry.suffix == ".pyc":
            continue
        source = Path(str(entry.locate()))
        if source.is_file():
            target = directory / entry
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
