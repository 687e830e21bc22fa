"""One boot of the machine: QEMU emulates an AMD processor with SVM, and the console is what comes out."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import emulator

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What one command wrote, and its exit status (128 + n for signal n)."""

    status: int
    output: str


def boot(image: Path, initramfs: Path, seconds: int) -> tuple[dict[str, Outcome], str]:
    """Boot once and wait until the machine switches itself off. Returns the outcomes by name, and the whole console."""
    # One emulating thread: with one per processor, one boot in three stood still (QEMU 7.2), and it is no slower.
    command = [
        emulator.find(),
        "-M",
        "pc",
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "EPYC-v3,+svm,+npt",
        "-smp",
        "2",
        "-m",
        "2048",
    ]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]
    command += ["-kernel", str(image), "-initrd", str(initramfs)]
    command += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable lsm=landlock"]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
        console, late = result.stdout, ""
    except subprocess.TimeoutExpired as error:
        console, late = error.stdout or b"", f"\n(the machine was ended after {seconds} s)"
    text = console.decode("utf-8", "replace").replace("\r", "") + late
    return _outcomes(text), text


def _outcomes(console: str) -> dict[str, Outcome]:
    pattern = r"^@@BEGIN (\S+)\n(.*?)\n@@END \1 (\d+)$"
    found = re.findall(pattern, console, re.MULTILINE | re.DOTALL)
    return {name: Outcome(int(status), output) for name, output, status in found}
