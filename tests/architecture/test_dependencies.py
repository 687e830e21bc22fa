"""Dependencies point one way: a test, so that it stays true."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "nexus-abi": set(),
    "nexus-personality": {"nexus-abi"},
    "nexus-vmm": {"nexus-abi", "nexus-personality"},
    "nexus-backend": {"nexus-abi"},
    "nexus-guest": {"nexus-abi"},
    "nexusd": {"nexus-abi", "nexus-backend"},
    "nexus-store": set(),
}


def dependencies() -> dict[str, set[str]]:
    """Crates of this workspace, each with those of the workspace it is built from."""
    command = ["cargo", "metadata", "--format-version=1", "--no-deps", "--offline"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    names = {package["name"] for package in metadata["packages"]}
    return {
        package["name"]: {d["name"] for d in package["dependencies"] if d["kind"] is None} & names
        for package in metadata["packages"]
    }


@pytest.mark.parametrize("crate", sorted(ALLOWED))
def test_crate_depends_on_nothing_above_it(crate: str) -> None:
    assert dependencies()[crate] <= ALLOWED[crate]


def test_every_crate_has_its_place() -> None:
    assert set(dependencies()) - set(ALLOWED) <= {"nexus-testdriver"}


def imports(path: Path) -> set[str]:
    """Absolute names that a module imports at any level of nesting."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


GUEST = sorted((ROOT / "python/nexus/guest").rglob("*.py"))


@pytest.mark.parametrize("path", GUEST, ids=lambda p: str(p.relative_to(ROOT)))
def test_guest_half_imports_the_standard_library_and_what_the_function_brought(path: Path) -> None:
    # boto3 and numpy are the function's own: the shims patch them where they are, and never need them.
    brought = {"boto3", "botocore", "urllib3", "s3transfer", "numpy", "snapshot_restore_py"} | {
        "aiobotocore",
        "aiohttp",
        "s3fs",
        "pyarrow",
        "fsspec",
    }
    for name in imports(path):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or top in brought or name.startswith("nexus.guest"), name


def test_guest_half_exists() -> None:
    assert GUEST
