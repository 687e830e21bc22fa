"""``make fuzz``: every fuzzer for a while, at rising seeds; what it finds is kept under ``fuzz-findings``.

``MINUTES=10`` and ``SEED=1`` in the environment; ``ONLY=guest,elf`` chooses among them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / "fuzz-findings"
PROGRAMS = ROOT / "tests" / "programs" / "hostile"
ROUND = 20  # seconds of one guest
# Name, crate and test target of the loops in Rust; each reads NEXUS_FUZZ_SECONDS and NEXUS_FUZZ_SEED.
LOOPS = {
    "elf": ("nexus-personality", ["--test", "fuzz"]),
    "snapshot": ("nexus-vmm", ["--test", "fuzz"]),
    "http": ("nexus-backend", ["--lib", "fuzz"]),
    "arena": ("nexus-backend", ["--test", "all", "fuzz::"]),
}


def _keep(name: str, seed: int, output: str) -> None:
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{name}-{seed}.txt"
    path.write_text(output)
    print(f"  FINDING: {path}", flush=True)


def guest(seconds: float, seed: int) -> bool:
    """Rounds of the guest that makes random system calls, each in a microVM of its own."""
    calls = rounds = 0
    sound = True
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fuzz"
        source = PROGRAMS / "fuzz.c"
        subprocess.run(["gcc", "-O1", "-mno-red-zone", "-static", "-pthread", "-o", program, source], check=True)
        while (left := end - time.monotonic()) > 1:
            vmm = ROOT / "python" / "nexus" / "_bin" / "nexus-vmm"
            command = [vmm, "run", "--memory", "256", "--", program, str(seed), str(min(ROUND, left)), "4"]
            try:
                result = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=ROUND + 60,
                    check=False,
                )
                status, output = result.returncode, result.stdout.decode("utf-8", "replace")
            except subprocess.TimeoutExpired as late:
                status, output = -1, f"it hangs\n{(late.stdout or b'').decode('utf-8', 'replace')}"
            counted = [line.split()[0] for line in output.splitlines() if " calls" in line]
            calls += int(counted[-1]) if counted else 0
            rounds += 1
            # 3: the guest ended itself by a fault of its own, which is its good right.
            if status not in {0, 3} or "panicked" in output or "nexus-vmm:" in output:
                _keep("guest", seed, f"status {status}\n{output}")
                sound = False
            seed += 1
    print(f"guest: {calls} system calls in {rounds} microVMs", flush=True)
    return sound


def loop(name: str, seconds: float, seed: int) -> bool:
    """One of the loops in Rust."""
    crate, target = LOOPS[name]
    environment = os.environ | {"NEXUS_FUZZ_SECONDS": str(int(seconds)), "NEXUS_FUZZ_SEED": str(seed)}
    command = ["cargo", "test", "--release", "--locked", "-p", crate, *target, "--", "--nocapture"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    counts = [line.partition("fuzzed: ")[2] for line in result.stdout.splitlines() if "fuzzed: " in line]
    print(f"{name}: {'; '.join(counts) or 'nothing'}", flush=True)
    if result.returncode != 0:
        _keep(name, seed, result.stdout)
    return result.returncode == 0


def main() -> int:
    """Run them one after another; 0 where nothing was found."""
    seconds = float(os.environ.get("MINUTES", "10")) * 60
    seed = int(os.environ.get("SEED", "1"))
    chosen = os.environ.get("ONLY", ",".join(["guest", *LOOPS])).split(",")
    unknown = set(chosen) - {"guest", *LOOPS}
    if unknown:
        print(f"ONLY={','.join(unknown)}: there are guest, {', '.join(LOOPS)}", file=sys.stderr)
        return 2
    if "guest" in chosen and not (shutil.which("gcc") and Path("/dev/kvm").exists()):
        print("guest: left out, it takes gcc and /dev/kvm", flush=True)
        chosen.remove("guest")
    sound = True
    for name in chosen:  # all of them, whatever one finds
        sound &= guest(seconds, seed) if name == "guest" else loop(name, seconds, seed)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
