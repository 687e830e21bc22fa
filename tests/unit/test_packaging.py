"""The depot and what goes into it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from nexus.errors import NexusError
from nexus.packaging import deployment, interpreter
from nexus.packaging.code import Source, add_code
from nexus.packaging.depot import Depot, tree_digest
from nexus.packaging.prune import prune
from nexus.packaging.requirement_files import Outcome, outcome
from nexus.packaging.requirements import add_requirements
from nexus.packaging.sdk_layer import add_sdk_layer

PYTHON = interpreter.find().executable


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    monkeypatch.delenv("NEXUS_PACKAGES", raising=False)
    return Depot(tmp_path / "state")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_same_content_gives_same_directory_and_other_content_another(depot: Depot, tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "app.py", "def handler(e, c): return 1\n")
    second = write(tmp_path / "b" / "app.py", "def handler(e, c): return 1\n")
    other = write(tmp_path / "c" / "app.py", "def handler(e, c): return 2\n")
    places = [add_code(depot, Source(path, "app.handler"), PYTHON) for path in (first, second, other)]
    assert places[0] == places[1] != places[2]
    assert (places[0] / "app.py").read_text() == first.read_text()


def test_only_the_handlers_file_is_copied_but_a_directory_whole(depot: Depot, tmp_path: Path) -> None:
    write(tmp_path / "d" / "app.py", "import helper\n")
    write(tmp_path / "d" / "helper.py", "")
    write(tmp_path / "d" / "__pycache__" / "junk.pyc", "")
    alone = add_code(depot, Source.parse(f"{tmp_path}/d/app.py:handler"), PYTHON)
    assert {p.name for p in alone.glob("*.py")} == {"app.py"}
    whole = add_code(depot, Source.parse(f"{tmp_path}/d:app.handler"), PYTHON)
    assert {p.name for p in whole.glob("*.py")} == {"app.py", "helper.py"}
    assert not (whole / "__pycache__" / "junk.pyc").exists()


def test_code_is_compiled_to_bytecode_that_needs_no_source_check(depot: Depot, tmp_path: Path) -> None:
    place = add_code(depot, Source(write(tmp_path / "app.py", "x = 1\n"), "app.handler"), PYTHON)
    (bytecode,) = (place / "__pycache__").glob("app.*.pyc")
    # PEP 552: flags 0b01, hash-based and unchecked.
    assert int.from_bytes(bytecode.read_bytes()[4:8], "little") == 1


def test_syntax_error_does_not_stop_packaging(depot: Depot, tmp_path: Path) -> None:
    place = add_code(depot, Source(write(tmp_path / "app.py", "def broken(:\n"), "app.handler"), PYTHON)
    assert (place / "app.py").exists()


def test_depot_is_readable_by_the_users_that_instances_run_as(depot: Depot, tmp_path: Path) -> None:
    source = write(tmp_path / "app.py", "")
    source.chmod(0o600)
    place = add_code(depot, Source(source, "app.handler"), PYTHON)
    assert place.stat().st_mode & 0o777 == 0o755
    assert (place / "app.py").stat().st_mode & 0o777 == 0o644


def test_half_made_directories_never_appear(depot: Depot) -> None:
    def fill(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        depot.add("code", "key", fill)
    assert list(depot.entries()) == []
    assert list((depot.root / "code").iterdir()) == []


@pytest.mark.parametrize("text", ["thumbnail.py", ":handler", "thumbnail.py:", "nowhere.py:handler", "nowhere"])
def test_a_source_that_names_no_handler_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(NexusError) as caught:
        Source.parse(text)
    assert "\n" not in str(caught.value)
    assert text.split(":", maxsplit=1)[0] in str(caught.value)


def test_directory_needs_module_and_function(tmp_path: Path) -> None:
    with pytest.raises(NexusError, match=r"directory:module\.function"):
        Source.parse(f"{tmp_path}:handler")


def test_digest_sees_names_contents_and_links(tmp_path: Path) -> None:
    write(tmp_path / "a", "1")
    digests = {tree_digest(tmp_path)}
    (tmp_path / "a").rename(tmp_path / "b")
    digests.add(tree_digest(tmp_path))
    write(tmp_path / "b", "2")
    digests.add(tree_digest(tmp_path))
    (tmp_path / "c").symlink_to("b")
    digests.add(tree_digest(tmp_path))
    assert len(digests) == 4


def test_sdk_layer_is_the_pinned_boto3_and_imports_without_this_environment(depot: Depot) -> None:
    from importlib.metadata import version

    layer = add_sdk_layer(depot, PYTHON)
    code = "import boto3, botocore, s3transfer, jmespath, dateutil, urllib3, six; print(boto3.__file__, boto3.__version__)"
    result = subprocess.run(
        [PYTHON, "-B", "-S", "-c", code], env={"PYTHONPATH": str(layer)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [f"{layer}/boto3/__init__.py", version("boto3")]


def test_users_requirements_come_before_the_sdk_layer(depot: Depot, tmp_path: Path) -> None:
    requirements = write(tmp_path / "requirements.txt", "six==1.17.0\n")
    source = Source(write(tmp_path / "app.py", ""), "app.handler")
    package = deployment.build(depot, source, deployment.Options(requirements=requirements))
    assert len(package.layers) == 2
    assert (package.layers[0] / "six.py").exists()
    assert not (package.layers[0] / "boto3").exists()
    assert (package.layers[1] / "boto3").exists()


def test_requirement_that_does_not_exist_is_named(depot: Depot, tmp_path: Path) -> None:
    requirements = write(tmp_path / "requirements.txt", "--no-index\nno-such-package-of-that-name==1\n")
    with pytest.raises(NexusError, match="no-such-package-of-that-name"):
        add_requirements(depot, requirements, PYTHON)


def wheel(path: Path, value: str) -> None:
    """A package ``mylib`` whose ``V`` is ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = "mylib-1.0.dist-info/"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mylib.py", f"V = {value!r}\n")
        archive.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: mylib\nVersion: 1.0\n")
        archive.writestr(about + "WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(about + "RECORD", "".join(f"{name},,\n" for name in [*archive.namelist(), about + "RECORD"]))


WHEEL = "mylib-1.0-py3-none-any.whl"


def test_requirements_of_one_project_are_never_those_of_another(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(project: Path) -> str:
        monkeypatch.chdir(project)
        return (add_requirements(depot, Path("requirements.txt"), PYTHON) / "mylib.py").read_text()

    for name in ("one", "two"):
        wheel(tmp_path / name / WHEEL, name)
        write(tmp_path / name / "requirements.txt", "-r more/base.txt\n")
        write(tmp_path / name / "more" / "base.txt", f"./{WHEEL}\n")
    assert installed(tmp_path / "one") == "V = 'one'\n"
    assert installed(tmp_path / "two") == "V = 'two'\n"
    wheel(tmp_path / "one" / WHEEL, "one, changed")
    assert installed(tmp_path / "one") == "V = 'one, changed'\n"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("-r base.txt", "base.txt"),
        ("-rbase.txt", "base.txt"),
        ("--requirement=base.txt", "base.txt"),
        ("--constraint 'base.txt'  # why", "base.txt"),
        ("-c \\\n base.txt", "base.txt"),
        ("-r deep/base.txt", "deep/more.txt"),
        (f"./{WHEEL}", WHEEL),
        (f"{WHEEL} ; python_version > '3'", WHEEL),
        (f"mylib[extra] @ ./{WHEEL} --hash=sha256:00", WHEEL),
        (f"mylib @ file://HERE/{WHEEL}", WHEEL),
        ("-f wheels\nmylib", "wheels/new.whl"),
        ("--find-links=file://HERE/wheels", "wheels/mylib.whl"),
        ("./${PART}.whl", "part.whl"),
    ],
)
def test_what_a_requirements_file_names_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, changed: str
) -> None:
    monkeypatch.setenv("PART", "part")
    monkeypatch.chdir(tmp_path.parent)
    for name in ("base.txt", "deep/more.txt", WHEEL, "wheels/mylib.whl", "part.whl"):
        write(tmp_path / name, "x")
    write(tmp_path / "deep" / "base.txt", "-r more.txt\n-r base.txt\n")
    requirements = write(tmp_path / "requirements.txt", line.replace("HERE", str(tmp_path)) + "\n")
    before = outcome(requirements).digest
    assert before is not None
    assert before == outcome(requirements).digest
    write(tmp_path / changed, "y")
    assert outcome(requirements).digest not in (before, None)


@pytest.mark.parametrize(
    "line",
    ["-e .", "--editable=./lib", "./lib", "mylib @ file://HERE/lib", "git+file://HERE/lib", "-r https://a.test/r.txt", "./no"],
)
def test_what_cannot_be_told_without_installing_it_is_not_kept(tmp_path: Path, line: str) -> None:
    (tmp_path / "lib").mkdir()
    assert outcome(write(tmp_path / "r.txt", line.replace("HERE", str(tmp_path)))).digest is None


def test_what_lies_elsewhere_counts_by_its_text_and_the_installers_settings_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "six>=1\nx @ https://a.test/x-1-py3-none-any.whl\ngit+https://a.test/y@main\n-i https://a.test/simple\n"
    requirements = write(tmp_path / "requirements.txt", text)
    before = outcome(requirements).digest
    assert before is not None
    monkeypatch.setenv("UV_INDEX_URL", "https://b.test/simple")
    assert outcome(requirements).digest not in (before, None)


def test_a_package_that_find_links_finds_is_the_one_that_is_there_now(depot: Depot, tmp_path: Path) -> None:
    requirements = write(tmp_path / "requirements.txt", "--no-index\n--find-links ./wheels\nmylib\n")
    for value in ("one", "two"):
        wheel(tmp_path / "wheels" / WHEEL, value)
        assert (add_requirements(depot, requirements, PYTHON) / "mylib.py").read_text() == f"V = {value!r}\n"


def test_what_cannot_be_told_is_one_directory_as_long_as_it_is_the_same(
    depot: Depot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus.packaging.requirement_files.outcome", lambda _file: Outcome(None, local=True))
    requirements = write(tmp_path / "requirements.txt", f"{tmp_path}/{WHEEL}\n")
    wheel(tmp_path / WHEEL, "one")
    first = add_requirements(depot, requirements, PYTHON)
    assert add_requirements(depot, requirements, PYTHON) == first
    wheel(tmp_path / WHEEL, "two")
    other = add_requirements(depot, requirements, PYTHON)
    assert [(place / "mylib.py").read_text() for place in (first, other)] == ["V = 'one'\n", "V = 'two'\n"]


@pytest.mark.parametrize("named", ["nowhere.txt", "latin.txt"])
def test_a_file_that_requirements_name_and_that_cannot_be_read_is_named(depot: Depot, tmp_path: Path, named: str) -> None:
    (tmp_path / "latin.txt").write_bytes(b"# \xff\n")
    with pytest.raises(NexusError, match=named):
        add_requirements(depot, write(tmp_path / "requirements.txt", f"-r {named}\n"), PYTHON)


def odd_entry(directory: Path, kind: str) -> str:
    """Put something into a directory that cannot be part of a function; its name."""
    if kind == "dangling":
        (directory / "dangling").symlink_to("nowhere")
    elif kind == "self":
        (directory / "self").symlink_to("self")
    elif kind == "loop":
        (directory / "sub").mkdir()
        (directory / "sub" / "loop").symlink_to("..")
    elif kind == "fifo":
        os.mkfifo(directory / "fifo")
    else:
        (Path(os.fsdecode(os.fsencode(directory) + b"/\xff.txt"))).touch()
        return "UTF-8"
    return kind


@pytest.mark.parametrize("kind", ["dangling", "self", "loop", "fifo", "latin"])
def test_what_cannot_be_part_of_a_function_is_refused_by_name(depot: Depot, tmp_path: Path, kind: str) -> None:
    write(tmp_path / "d" / "app.py", "")
    name = odd_entry(tmp_path / "d", kind)
    with pytest.raises(NexusError, match=name):
        add_code(depot, Source(tmp_path / "d", "app.handler"), PYTHON)


def test_links_are_copied_as_what_they_lead_to_and_editors_locks_are_left_out(depot: Depot, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "part.py", "x = 1\n")
    write(tmp_path / "d" / "app.py", "")
    (tmp_path / "d" / "part.py").symlink_to("../elsewhere/part.py")
    for name in ("one", "two"):
        (tmp_path / "d" / name).symlink_to("../elsewhere")
    (tmp_path / "d" / ".#app.py").symlink_to("someone@here.1:2")
    place = add_code(depot, Source(tmp_path / "d", "app.handler"), PYTHON)
    for name in ("part.py", "one/part.py", "two/part.py"):
        assert not (place / name).is_symlink()
        assert (place / name).read_text() == "x = 1\n"
    assert not [path.name for path in place.iterdir() if path.name.startswith(".")]


def test_document_has_every_field_of_the_protocol(depot: Depot, tmp_path: Path) -> None:
    source = Source(write(tmp_path / "app.py", ""), "app.handler")
    options = deployment.Options()
    document = deployment.document(deployment.build(depot, source, options), options)
    assert set(document) == {
        *("handler", "code", "layers", "runtime", "python", "roots", "memory_mib", "timeout_s", "tmp_mib"),
        *("environment", "max_instances", "keep_alive_s", "isolation", "offload", "digest", "prewarm"),
        *("writes", "commit_deadline_s", "prefetch"),
    }
    assert Path(document["runtime"], "nexus", "guest").is_dir()
    # Of the rest of this package nothing.
    assert {path.name for path in Path(document["runtime"], "nexus").iterdir()} <= {"__init__.py", "__pycache__", "guest"}
    assert "import" not in Path(document["runtime"], "nexus", "__init__.py").read_text()


def test_interpreter_is_never_the_virtual_environments_link() -> None:
    found = interpreter.find(Path(sys.executable))
    assert not found.executable.is_symlink()
    assert found.executable == interpreter.find().executable
    assert Path(os.__file__).is_relative_to(found.roots[0]) or any(Path(os.__file__).is_relative_to(r) for r in found.roots)


def test_roots_do_not_nest_and_hold_nothing_wide() -> None:
    roots = interpreter.find().roots
    assert all(root.is_dir() for root in roots)
    assert not [(a, b) for a in roots for b in roots if a in b.parents]
    assert not {Path("/"), Path("/usr"), Path("/etc"), Path("/root"), Path("/home")} & set(roots)


def test_prune_deletes_what_is_unused_and_old(depot: Depot, tmp_path: Path) -> None:
    old = add_code(depot, Source(write(tmp_path / "a.py", "1"), "a.handler"), PYTHON)
    used = add_code(depot, Source(write(tmp_path / "b.py", "2"), "b.handler"), PYTHON)
    deployed = [{"code": str(used), "layers": [], "runtime": str(used)}]
    assert prune(depot, deployed) == []
    assert prune(depot, deployed, now=time.time() + 7200) == [old]
    assert used.is_dir()
    assert not old.exists()


def test_prune_keeps_everything_when_the_node_does_not_tell(depot: Depot, tmp_path: Path) -> None:
    place = add_code(depot, Source(write(tmp_path / "a.py", "1"), "a.handler"), PYTHON)
    assert prune(depot, [{"name": "f"}], now=time.time() + 7200) == []
    assert place.is_dir()
