"""Debian's cloud kernel and its KVM modules, from the package, unpacked into a cache."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_META = "linux-image-cloud-amd64"
_WANTED = "kvm-amd"


class LaneError(Exception):
    """The lane cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Kernel:
    """A kernel image, and the modules KVM needs on AMD in the order they are loaded."""

    image: Path
    modules: tuple[Path, ...]


def get(cache: Path) -> Kernel:
    """The kernel, downloaded into `cache` unless it is there already."""
    root = cache / "kernel"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        _download(root)
        (root / "complete").touch()
    images = sorted(root.glob("boot/vmlinuz-*"))
    if not images:
        raise LaneError(f"{root} holds no kernel: delete it and try again")
    return Kernel(images[-1], tuple(_with_dependencies(root, _WANTED)))


def _download(root: Path) -> None:
    """Fetch the newest kernel package by apt, without installing it."""
    depends = _run(["apt-cache", "depends", _META])
    packages = re.findall(r"Depends: (linux-image-\S+)", depends)
    if not packages:
        raise LaneError(f"apt knows no package {_META}: run apt-get update")
    _run(["apt-get", "download", packages[0]], cwd=root)
    (package,) = root.glob("*.deb")
    _run(["dpkg", "-x", str(package), str(root)])
    package.unlink()


def _with_dependencies(root: Path, name: str) -> list[Path]:
    """A module after those that its .modinfo section says it depends on."""
    found = {path.name.split(".")[0].replace("_", "-"): path for path in root.glob("lib/modules/**/*.ko")}
    order: list[Path] = []

    def visit(module: str) -> None:
        path = found.get(module.replace("_", "-"))
        if path is None or path in order:
            return  # built in, or there already
        depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for needed in (depends.group(1).decode() if depends else "").split(","):
            if needed:
                visit(needed)
        order.append(path)

    visit(name)
    if not order:
        raise LaneError(f"the kernel in {root} has no module {name}")
    return order


def _run(command: list[str], cwd: Path | None = None) -> str:
    try:
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=300).stdout
    except FileNotFoundError as error:
        raise LaneError(f"{command[0]} is missing: the lane takes its kernel from a Debian package") from error
    except subprocess.CalledProcessError as error:
        raise LaneError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
