"""The depot and what goes into it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nexus.errors import NexusError
from nexus.packaging import deployment, interpreter
from nexus.packaging.code import Source, add_code
from nexus.packaging.depot import Depot, tree_digest
from nexus.packaging.prune import prune
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
    assert not Path(document["runtime"], "nexus", "__init__.py").exists()


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
