"""`python tests/crash [KILLS] [SEED]`: half of the kills with a store that works, half with one that fails."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash.model import run


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    bad = 0
    for fault_rate in (0.0, 0.15):
        with tempfile.TemporaryDirectory(prefix="nexus-crash-") as directory:

            def say(text):
                return print(f"faults {fault_rate:.0%}: {text}", flush=True)

            report = run(Path(directory), kills // 2, seed, fault_rate=fault_rate, say=say)
        say(str(report))
        bad += len(report.problems)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
