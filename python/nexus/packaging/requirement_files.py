"""What decides which packages a requirements file gives: its text, and what it names on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from nexus.errors import NexusError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_FILES = 100
_LONGEST = 4 << 20
_NAMED_FILES = frozenset({"-r", "--requirement", "-c", "--constraint"})
_INDEXES = frozenset({"-i", "--index-url", "--extra-index-url"})
_ARCHIVES = (".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz")
# pip's rules: a comment begins a line or follows a space; ${NAME} is a variable; an option may stick to its value.
_COMMENT = re.compile(r"(?:^|\s+)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_OPTION = re.compile(r"(--[a-z-]+)(?:[=\s]\s*(.*))?|(-[a-z])\s*(.*)", re.DOTALL)
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


class _UnknownError(Exception):
    """What is named cannot be told from what it was, short of installing it."""


class Outcome(NamedTuple):
    """What is known of a requirements file's outcome beforehand.

    :param digest: of everything that decides it; None where that cannot be told without installing it.
    :param local: files or directories of this machine are among it.
    """

    digest: str | None
    local: bool


def outcome(file: Path) -> Outcome:
    """What decides which packages ``file`` gives.

    Files named by ``-r`` and ``-c``, archives and the directories of ``--find-links`` count by their content; a directory
    that is to be built, editable or not, cannot be told. What lies elsewhere counts by its text: a version range, a URL, a
    branch. The installer's own configuration counts as well: variables, and uv's tables in the working directory.

    :raises NexusError: a file that is named cannot be read.
    """
    total, local = hashlib.sha256(), False
    try:
        for part, is_local in _parts(file):
            local = local or is_local
            total.update(len(part).to_bytes(8, "little"))
            total.update(part)
    except _UnknownError:
        return Outcome(None, local=True)
    return Outcome(total.hexdigest()[:32], local)


def _parts(first: Path) -> Iterator[tuple[bytes, bool]]:
    """What decides, piece by piece, and whether it is what a file or directory holds that is to be installed."""
    for name in sorted(os.environb):
        if name.startswith((b"PIP_", b"UV_")):
            yield name + b"=" + os.environb[name], False
    for table in _configuration():
        yield table, False
    pending, seen = [first.absolute()], set[Path]()
    while pending:
        file = pending.pop()
        if file in seen:
            continue
        seen.add(file)
        # What is no list of requirements (pyproject.toml, setup.py) is the installer's to understand.
        if len(seen) > _MOST_FILES or file.suffix in {".toml", ".py", ".cfg"}:
            raise _UnknownError
        for line in _lines(_read(file)):
            yield line.encode("utf-8", "surrogateescape"), False
            named, contents = _look(line, file.parent)
            pending += named
            for content in contents:
                yield content, True


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise _UnknownError
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"the requirements file {file} cannot be read ({error})"
        raise NexusError(message, "check the path after --requirements, and what that file names by -r and -c") from error


def _lines(text: str) -> Iterator[str]:
    """The lines that say something, continued ones as one, with the values of variables."""
    for line in re.sub(r"\\\r?\n", "", text).splitlines():
        plain = _COMMENT.sub("", line).strip()
        if plain:
            yield _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), plain)


def _look(line: str, beside: Path) -> tuple[list[Path], list[bytes]]:
    """Files of requirements that a line names, and the content of what else it names."""
    option = _OPTION.fullmatch(line)
    if option is None:
        return [], _content(_location(line), beside)
    name, value = (option[1] or option[3]), _unquoted(option[2] or option[4] or "")
    if name in _NAMED_FILES:
        if _SCHEME.match(value) and not value.startswith("file:"):
            raise _UnknownError
        return [beside / _path(value)], []
    if name in ("-e", "--editable") or (name in _INDEXES and not value.startswith(("http:", "https:"))):
        raise _UnknownError
    if name in ("-f", "--find-links") and not value.startswith(("http:", "https:")):
        found = [content for place in _places(value, beside) for content in _listing(place)]
        return [], found
    return [], []


def _location(line: str) -> str:
    """Where a requirement's package is, if the line says so: a path or a URL; else an empty text."""
    text = re.split(r"\s--|\s?;", line, maxsplit=1)[0].strip()
    name, at, where = text.partition("@")
    if at and re.fullmatch(r"[\w.-]+\s*(?:\[[^\]]*\])?\s*", name):
        return where.strip()
    text = re.sub(r"\[[^\]/]*\]$", "", text)
    named = _SCHEME.match(text) or "/" in text or text.startswith(".") or text.lower().endswith(_ARCHIVES)
    return text if named else ""


def _content(location: str, beside: Path) -> list[bytes]:
    if not location:
        return []
    if _SCHEME.match(location) and not location.startswith("file:"):
        if location.partition(":")[0].endswith("+file"):
            raise _UnknownError
        return []
    places = _places(location.partition("#")[0], beside)
    if not places or any(place.is_dir() for place in places):
        raise _UnknownError
    return [_hash(place) for place in places]


def _places(value: str, beside: Path) -> list[Path]:
    """Where a path may lead: installers take it from the working directory, or from the file that names it."""
    path = _path(value)
    return [place for place in dict.fromkeys((Path.cwd() / path, beside / path)) if place.exists()]


def _path(value: str) -> Path:
    try:
        return Path(unquote(urlsplit(value).path) if value.startswith("file:") else value).expanduser()
    except (ValueError, RuntimeError):  # no URL; nobody's home
        raise _UnknownError from None


def _listing(place: Path) -> Iterator[bytes]:
    """What `--find-links` finds there: the archives of a directory, or the links of a page."""
    if place.is_file():
        yield _hash(place)
        return
    for entry in sorted(place.iterdir()):
        yield os.fsencode(entry.name)
        if entry.is_file():
            yield _hash(entry)


def _hash(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        raise NexusError(f"{file} cannot be read ({error.strerror})", "a requirements file names it") from error


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value


def _configuration() -> Iterator[bytes]:
    """What uv is told by the project that the working directory is in."""
    for directory in (Path.cwd(), *Path.cwd().parents):
        try:
            if (own := directory / "uv.toml").is_file():
                yield own.read_bytes()
                return
            if (project := directory / "pyproject.toml").is_file():
                document = tomllib.loads(project.read_text(encoding="utf-8"))
                yield repr(document.get("tool", {}).get("uv")).encode("utf-8", "surrogateescape")
                return
        except (OSError, ValueError, AttributeError):
            return
