"""Suites that others wrote, in microVMs and on the host: `python tools/conformance [SUITE...]`.

Each module of CPython's, numpy's and Pillow's own tests runs on this machine's kernel and in a microVM of its own; of
requests', urllib3's and s3transfer's, natively and as a function of a node. What passes here must pass there, or
tests/conformance says why not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import expectations
import packages
import suites
from nexus import paths
from runner import Outcome, Place, run

if TYPE_CHECKING:
    from collections.abc import Container

# Seconds for a module on the host; a microVM gets twice as long.
_LIMIT = 180
_LOGS = suites.CACHE / "logs"


def main() -> int:
    """Run the suites named; 1 if one does not do as expected."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("suites", nargs="*", help="cpython, numpy, pillow (the default); requests, urllib3, s3transfer")
    parser.add_argument("--jobs", type=int, default=2, help="modules at a time")
    parser.add_argument("--only", nargs="*", help="these modules")
    parser.add_argument("--survey", action="store_true", help="run everything in full, whatever is expected, and judge nothing")
    options = parser.parse_args()
    # Whoever starts this in the background may ignore SIGINT, and what is ignored is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return max([_suite(name, options) for name in options.suites or ("cpython", "numpy", "pillow")])


def _suite(name: str, options: argparse.Namespace) -> int:
    try:
        suite = packages.load(name) if name in packages.NAMES else suites.load(name)
    except suites.SuiteMissingError as error:
        print(f"{name}: not run: {error}")
        return 1
    expected = None if options.survey else expectations.load(name)
    if expected and not f"{suite.version}.".startswith(f"{expected.version}."):
        print(f"{name}: not judged: the expectations are for {expected.version}, and this is {suite.version}")
        return 1
    modules = [m for m in suite.modules if options.only is None or m in options.only]
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        ground = stack.enter_context(packages.grounds(suite)) if name in packages.NAMES else None
        pool = stack.enter_context(ThreadPoolExecutor(options.jobs))
        pairs = dict(zip(modules, pool.map(lambda m: _both(suite, m, expected, ground), modules), strict=True))
    lines = [
        json.dumps({"module": m, "host": asdict(host), "inside": inside and asdict(inside)})
        for m, (host, inside) in pairs.items()
    ]
    _LOGS.mkdir(parents=True, exist_ok=True)
    (_LOGS / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return _report(suite, expected, pairs, time.monotonic() - began)


def _both(
    suite: suites.Suite, module: str, expected: expectations.Expectations | None, ground: packages.Grounds | None
) -> tuple[Outcome, Outcome | None]:
    """A module on the host, and in a microVM where it passes on the host and is not to be skipped."""
    logs, file = _LOGS / suite.name, f"{module.replace('/', '.')}.log"
    native = ground.native() if ground else suite
    host = run(Place(None), suite.command(module, ()), native.environment, logs / "host" / file, _LIMIT)
    ignored = expected.ignored(module) if expected else ()
    if expected and module in expected.skipped:
        return host, None
    if ground and (host.status == "pass" or (host.status == "fail" and len(host.failed) < host.tests)):
        # What fails natively (for want of a network, say) says nothing of the inside; the other tests of its module do.
        return host, ground.run(module, (*ignored, *host.failed), logs / "inside" / file, 2 * _LIMIT)
    if host.status != "pass":
        return host, None
    place = Place(paths.binary("nexus-vmm"), suite.roots)
    return host, run(place, suite.command(module, ignored), suite.environment, logs / "inside" / file, 2 * _LIMIT)


def _report(
    suite: suites.Suite,
    expected: expectations.Expectations | None,
    pairs: dict[str, tuple[Outcome, Outcome | None]],
    seconds: float,
) -> int:
    on_host = {m: inside for m, (host, inside) in pairs.items() if host.status == "pass" or inside is not None}
    natively = sum(len(host.failed) for m, (host, _) in pairs.items() if m in on_host)
    passed = [m for m, inside in on_host.items() if inside and inside.status == "pass"]
    partly = [m for m in passed if expected and m in expected.partly]
    wrong = [m for m, inside in on_host.items() if inside and inside.status != "pass"]
    unknown = [m for m in on_host if expected and not expected.known(m)]
    counts = Counter(host.status for host, _ in pairs.values())
    tests = sum(inside.tests for inside in on_host.values() if inside)
    share = 100 * len(passed) / max(1, len(on_host))
    skipped = [m for m, inside in on_host.items() if inside is None]
    print(
        f"{suite.name} {suite.version}: {len(pairs)} modules, {len(on_host)} of them to be compared; on the host {dict(counts)}"
    )
    print(f"  in microVMs {len(passed)} of those pass ({share:.1f} %), {len(partly)} of them but for named tests")
    if natively:
        print(f"  {natively} tests of these modules fail on the host and are not run in microVMs")
    print(f"  {len(skipped)} are not run there; {tests} tests ran; {seconds:.0f} s; logs: {_LOGS / suite.name}")
    for reason, (modules, single) in sorted(_reasons(expected, on_host).items() if expected else ()):
        print(f"    {modules} modules, {single} single tests: {reason}")
    for module in wrong:
        inside = on_host[module]
        assert inside is not None
        print(f"  FAILED {module}: {inside.status}: {', '.join(inside.failed[:5])}")
    for module in unknown:
        print(f"  UNKNOWN {module}: tests/conformance/{suite.name}.toml does not name it")
    return int(expected is not None and bool(wrong or unknown))


def _reasons(expected: expectations.Expectations, modules: Container[str]) -> dict[str, tuple[int, int]]:
    """How many modules and how many tests of others are not run, by reason."""
    return {
        text: (
            sum(k == key and m in modules for m, k in expected.skipped.items()),
            sum(k == key for m, tests in expected.partly.items() if m in modules for k in tests.values()),
        )
        for key, text in expected.reasons.items()
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
