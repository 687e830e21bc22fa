"""The suites: where their modules are, how one is run, and what it needs to see of the host."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from nexus.packaging import interpreter

CACHE = Path(os.environ.get("NEXUS_CACHE", Path.home() / ".cache" / "nexus")) / "conformance"
EXPECTATIONS = Path(__file__).resolve().parents[2] / "tests" / "conformance"
_SITE = Path(sysconfig.get_path("purelib"))


class SuiteMissingError(Exception):
    """A suite cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Suite:
    """A suite that somebody else wrote.

    :param version: what its expectations are for; the interpreter's or the package's.
    :param modules: names, in order.
    :param roots: host directories that a guest must see.
    :param environment: variables for either side.
    """

    name: str
    version: str
    modules: tuple[str, ...]
    roots: tuple[Path, ...]
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, module: str, ignored: tuple[str, ...]) -> list[str]:
        """The program that runs one module but for the tests named."""
        program = [str(interpreter.find().executable), *self.words]
        if self.name == "cpython":
            return [*program, *(word for test in ignored for word in ("-i", test)), module]
        return [*program, *(word for test in ignored for word in ("--deselect", test)), module]


def load(name: str) -> Suite:
    """A suite by name.

    :raises SuiteMissingError: it cannot be had here.
    """
    return {"cpython": _cpython, "numpy": _numpy, "pillow": _pillow}[name]()


def _version() -> str:
    return interpreter.find().version.rpartition(".")[0]


def _cpython() -> Suite:
    python = interpreter.find()
    own = Path(_ask("import sysconfig; print(sysconfig.get_path('stdlib'))"))
    environment, roots = {}, python.roots
    if not (own / "test" / "test_grammar.py").is_file():
        library = _debian_tests(own)
        environment, roots = {"PYTHONPATH": str(library)}, (*roots, library)
    words = ("-m", "test", "-v", "-u", "none")
    listed = _ask("from test.libregrtest.main import main; main()", "--list-tests", **environment)
    return Suite("cpython", _version(), tuple(listed.split()), roots, words, environment)


def _ask(program: str, *arguments: str, **environment: str) -> str:
    command = [str(interpreter.find().executable), "-c", program, *arguments]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True, cwd="/", timeout=60
    )
    return result.stdout.strip()


def _debian_tests(stdlib: Path) -> Path:
    """Debian packs the standard library's tests apart: fetch them, unpacked in the cache, with what they lie beside."""
    package = f"libpython{_version()}-testsuite"
    if not stdlib.is_relative_to("/usr/lib") or shutil.which("dpkg") is None:
        message = f"{interpreter.find().executable} has no `test` package, and is not Debian's, which {package} would fit"
        raise SuiteMissingError(message)
    place = CACHE / package
    library = place / "lib"
    if library.is_dir():
        return library
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        subprocess.run(
            ["apt-get", "download", "-q", package], cwd=place, check=True, capture_output=True, text=True, timeout=120
        )
        subprocess.run(["dpkg", "-x", str(next(place.glob("*.deb"))), "unpacked"], cwd=place, check=True, timeout=120)
    except (OSError, StopIteration, subprocess.SubprocessError) as error:
        shutil.rmtree(place, ignore_errors=True)
        message = f"the package {package} cannot be fetched ({error}); run `apt-get update`, or install it"
        raise SuiteMissingError(message) from error
    tests = place / "unpacked" / stdlib.relative_to("/") / "test"
    shutil.copytree(stdlib / "test", tests, dirs_exist_ok=True)
    library.mkdir()
    tests.rename(library / "test")
    return library


PYTEST = ("-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "--color=no")


def _numpy() -> Suite:
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError as error:
        raise SuiteMissingError("numpy is not installed in this environment") from error
    modules = sorted(str(path.relative_to(_SITE)) for path in (_SITE / "numpy").rglob("tests/test_*.py"))
    words = (*PYTEST, "-m", "not slow", f"--rootdir={_SITE}", "-c", "/dev/null")
    environment = {"PYTHONPATH": str(_SITE), "NEXUS_CONFORMANCE_DIRECTORY": str(_SITE)}
    return Suite("numpy", version, tuple(modules), (*interpreter.find().roots, _SITE), words, environment)


def _pillow() -> Suite:
    try:
        version = importlib.metadata.version("pillow")
    except importlib.metadata.PackageNotFoundError as error:
        raise SuiteMissingError("pillow is not installed in this environment") from error
    source = CACHE / f"pillow-{version}"
    if not source.is_dir():
        fetch_source("pillow", version, source)
    modules = sorted(str(path.relative_to(source)) for path in (source / "Tests").glob("test_*.py"))
    words = (*PYTEST, f"--rootdir={source}", "-c", "/dev/null")
    environment = {"PYTHONPATH": f"{_SITE}:{source}", "NEXUS_CONFORMANCE_DIRECTORY": str(source)}
    return Suite("pillow", version, tuple(modules), (*interpreter.find().roots, _SITE, source), words, environment)


def fetch_source(package: str, version: str, target: Path) -> None:
    """Unpack a package's source distribution at ``target``."""
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-binary",
        package,
    ]
    try:
        subprocess.run(
            [*command, "--dest", str(CACHE), f"{package}=={version}"], check=True, capture_output=True, text=True, timeout=300
        )
        archive = next(CACHE.glob(f"{package}-{version}.tar.gz"))
        with tarfile.open(archive) as opened:
            opened.extractall(CACHE, filter="data")
    except (OSError, StopIteration, tarfile.TarError, subprocess.SubprocessError) as error:
        message = f"the source of {package} {version} cannot be fetched ({error})"
        raise SuiteMissingError(message) from error
    if not target.is_dir():
        message = f"the source of {package} {version} does not unpack as {target.name}"
        raise SuiteMissingError(message)
