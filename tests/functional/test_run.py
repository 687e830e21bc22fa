"""``nexus run``: programs in a microVM of their own, standard streams attached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from framework.cli import run

pytestmark = pytest.mark.kvm


def test_python_computes_and_prints() -> None:
    result = run("run", "--", "python3", "-S", "-c", "print(6 * 7)")
    assert (result.returncode, result.stdout) == (0, "42\n"), result.stderr


def test_exit_status_is_the_programs() -> None:
    assert run("run", "--", "python3", "-S", "-c", "raise SystemExit(7)").returncode == 7


def test_standard_input_is_attached() -> None:
    result = run("run", "--", "python3", "-S", "-c", "print(input()[::-1])", stdin="abc\n")
    assert result.stdout == "cba\n", result.stderr


def test_a_directory_is_seen_only_when_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("here")
    program = ("python3", "-S", "-c", f"print(open('{tmp_path}/secret').read())")
    assert run("run", "--", *program).returncode == 1
    assert run("run", "--ro", str(tmp_path), "--", *program).stdout == "here\n"


def test_the_virtual_environments_python_runs_as_its_base() -> None:
    result = run("run", "--", sys.executable, "-c", "import sys, ssl, json; print(sys.version_info[:2])")
    assert result.stdout.strip() == str(sys.version_info[:2]), result.stderr


def test_the_hosts_name_is_not_seen() -> None:
    name = subprocess.run(["uname", "-n"], capture_output=True, text=True, check=True).stdout.strip()
    result = run("run", "--", "python3", "-S", "-c", "import os; print(os.uname().nodename)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() != name


def test_unknown_program_is_named() -> None:
    result = run("run", "--", "no-such-program")
    assert result.returncode == 1
    assert "no-such-program" in result.stderr
