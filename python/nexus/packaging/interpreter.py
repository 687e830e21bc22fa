"""The Python that functions run on, and the host directories it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nexus.errors import NexusError

# Asked of the interpreter itself. The extension modules are imported so that their libraries show up in the maps.
_QUESTION = """
import importlib, json, re, sys, sysconfig
for name in ("ssl", "sqlite3", "ctypes", "lzma", "bz2", "zlib", "hashlib", "uuid", "decimal", "curses"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
libraries = set()
for line in open("/proc/self/maps"):
    path = line.rstrip("\\n").partition("/")[2]
    if re.search(r"\\.so(\\.[0-9.]+)?$", path):
        libraries.add("/" + path)
print(json.dumps({
    "executable": sys._base_executable or sys.executable,
    "prefix": sys.base_prefix,
    "exec_prefix": sys.base_exec_prefix,
    "stdlib": sysconfig.get_path("stdlib"),
    "version": "%d.%d.%d" % sys.version_info[:3],
    "libraries": sorted(libraries),
}))
"""

# Read by the interpreter's libraries, not mapped by it: the loader, certificates, time zones.
_ALWAYS = (
    "/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/share/zoneinfo",
)
_TOO_WIDE = frozenset(map(Path, ("/", "/usr", "/usr/local", "/usr/lib", "/lib", "/etc", "/home", "/root", "/opt")))


@dataclass(frozen=True)
class Interpreter:
    """A Python of the host.

    :param executable: the real program, never a virtual environment's link.
    :param version: such as ``3.11.7``.
    :param roots: host directories it needs, to be mapped read-only at the same paths; none lies inside another.
    """

    executable: Path
    version: str
    roots: tuple[Path, ...]


@cache
def find(python: Path | None = None) -> Interpreter:
    """Describe an interpreter; by default the one behind the running environment.

    :raises NexusError: it does not run, or is older than 3.11.
    """
    program = python or Path(getattr(sys, "_base_executable", "") or sys.executable)
    try:
        result = subprocess.run(
            [str(program), "-I", "-c", _QUESTION], capture_output=True, text=True, timeout=30, check=True, cwd="/"
        )
        answer = json.loads(result.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        message = f"the Python {program} does not run ({error})"
        raise NexusError(message, "name another one with --python") from error
    if tuple(map(int, answer["version"].split("."))) < (3, 11):
        raise NexusError(f"the Python {program} is {answer['version']}", "functions need 3.11 or later")
    executable = Path(answer["executable"]).resolve()
    return Interpreter(executable, answer["version"], _roots(answer, executable))


def _roots(answer: dict[str, str | list[str]], executable: Path) -> tuple[Path, ...]:
    wanted = {executable.parent, *map(Path, _ALWAYS)}
    for key in ("prefix", "exec_prefix"):
        prefix = Path(str(answer[key]))
        if prefix in _TOO_WIDE:
            # The distribution's own Python: its library, not all that is installed beside it.
            wanted.add(Path(str(answer["stdlib"])))
            wanted.add(prefix / "lib" / "python3" / "dist-packages")
        else:
            wanted.add(prefix)
    wanted.update(Path(library).parent for library in answer["libraries"])
    present = sorted(path for path in wanted if path.is_dir() and path not in _TOO_WIDE)
    return tuple(path for path in present if not any(other in path.parents for other in present))
