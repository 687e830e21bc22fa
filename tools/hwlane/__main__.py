"""The hardware lane: the hypervisor under kvm_amd, in QEMU with emulated SVM. `python tools/hwlane [NAME...]`.

PVM hides what matters on hardware (CPL 0, guest page tables, SMEP and SMAP); this machine does not.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import build
import cpio
import kernel
import machine

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "hardware"))

import cases  # noqa: E402 - found by the path above

# Seconds for one boot with all tests.
DEADLINE = 240


def main(wanted: list[str]) -> int:
    """Run the cases named (all: none named); the number of failures."""
    cache = Path(os.environ.get("NEXUS_CACHE", Path.home() / ".cache" / "nexus")) / "hwlane"
    cache.mkdir(parents=True, exist_ok=True)
    chosen = [case for case in cases.CASES if not wanted or case.name in wanted]
    began = time.monotonic()
    image = kernel.get(cache)
    archive = cache / "initramfs"
    archive.write_bytes(cpio.archive(_files(image, chosen, cache)))
    prepared = time.monotonic()
    outcomes, console = machine.boot(image.image, archive, DEADLINE)
    (cache / "console.log").write_text(console)
    failed = [case.name for case in chosen if not _judge(case, outcomes.get(case.name))]
    took = time.monotonic() - prepared
    print(f"hardware lane: {len(chosen) - len(failed)} passed, {len(failed)} failed in {took:.0f} s", end="")
    print(f" (and {prepared - began:.0f} s to prepare); console: {cache / 'console.log'}")
    if not outcomes:
        print(console[-3000:])
    return min(len(failed), 100)


def _files(image: kernel.Kernel, chosen: list[cases.Case], cache: Path) -> dict[str, tuple[int, bytes]]:
    """The machine's file system."""
    here = Path(__file__).parent
    files = {"init": (0o755, build.program(here / "init.c", cache).read_bytes())}
    files["bin/nexus-vmm"] = (0o755, build.vmm(REPOSITORY).read_bytes())
    if any(case.name == "machine" for case in chosen):
        files["hardware/machine"] = (0o755, build.machine_tests(REPOSITORY).read_bytes())
    for folder in ("programs", "hardware"):
        for source in sorted((REPOSITORY / "tests" / folder).glob("*.c")):
            files[f"{folder}/{source.stem}"] = (0o755, build.program(source, cache).read_bytes())
    for name in cases.HOSTILE:
        source = REPOSITORY / "tests" / "programs" / "hostile" / f"{name}.c"
        files[f"programs/{name}"] = (0o755, build.program(source, cache).read_bytes())
    for path in image.modules:
        files[f"modules.d/{path.name}"] = (0o644, path.read_bytes())
    files["modules"] = (0o644, "".join(f"/modules.d/{path.name}\n" for path in image.modules).encode())
    files["tests"] = (0o644, "".join("\t".join([case.name, *case.command]) + "\n" for case in chosen).encode())
    return files


def _judge(case: cases.Case, outcome: machine.Outcome | None) -> bool:
    wrong = ["it did not run"] if outcome is None else case.wrong(outcome.status, outcome.output)
    print(f"{'FAIL' if wrong else 'ok  '} {case.name}")
    for what in wrong:
        print(f"     {what}")
    if wrong and outcome is not None:
        print("     | " + outcome.output.strip()[-1500:].replace("\n", "\n     | "))
    return not wrong


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except kernel.LaneError as error:
        print(f"hardware lane: {error}", file=sys.stderr)
        sys.exit(2)
