"""Renewal: the same program state, twice restored, draws differently; what was seeded draws the same."""

import json
import os
import sys
from pathlib import Path

import pytest
from support import run

HANDLERS = Path(__file__).parents[1] / "handlers"
# Two clones by fork, without the hooks that a fork runs in Python: the state is exactly the parent's.
PROGRAM = """
import ctypes, json, os, sys
from nexus.guest.runtime import renewal
tracker = renewal.Tracker()
tracker.start()
{prepare}
tracker.stop()
hooks = tracker.hooks()
libc = ctypes.PyDLL(None)
clones = []
for _ in range(4):
    read, write = os.pipe()
    if libc.fork() == 0:
        if {renew}:
            renewal.run(hooks)
        os.write(write, json.dumps({draw}).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        clones.append(json.load(pipe))
print(json.dumps(clones))
"""


def clones(prepare, draw, *, renew=True):
    path = os.pathsep.join([str(HANDLERS), *filter(None, sys.path)])
    program = PROGRAM.format(prepare=prepare, draw=draw, renew=renew)
    return json.loads(run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}))


def test_everything_unseeded_differs_and_seeded_does_not():
    found = clones("import renewal as handler", "handler.handler(None, None)")
    for name in found[0]["unique"]:
        drawn = [clone["unique"][name] for clone in found]
        assert len(set(drawn)) == len(drawn), name
    for name in found[0]["same"]:
        assert len({clone["same"][name] for clone in found}) == 1, name


def test_without_renewal_clones_repeat():
    found = clones("import renewal as handler", "handler.handler(None, None)", renew=False)
    assert len({clone["unique"]["random"] for clone in found}) == 1


@pytest.mark.parametrize(
    ("prepare", "draw", "differs"),
    [
        ("import random; random.seed(1)", "random.random()", False),
        ("import random; random.seed(1); random.seed()", "random.random()", True),
        ("import random; r = random.Random(3)", "r.random()", False),
        ("import random\nclass Mine(random.Random): pass\nr = Mine()", "r.random()", True),
        (
            "import os\nfrom random import *\nn = [0]\nos.register_at_fork(after_in_child=lambda: n.append(os.getpid()))",
            "n",
            True,
        ),
    ],
)
def test_what_the_program_seeded_stays(prepare, draw, differs):
    found = [json.dumps(clone) for clone in clones(prepare, draw)]
    assert (len(set(found)) > 1) is differs


def test_numpy_seeds_of_any_kind_are_respected():
    pytest.importorskip("numpy", reason="numpy is an optional library of functions")
    prepare = (
        "import numpy as np; np.random.seed(5); a = np.random.default_rng(2**127 + 1);"
        "b = np.random.RandomState(9); c = np.random.RandomState(); d = np.random.Generator(np.random.MT19937())"
    )
    draw = "[float(np.random.random()), float(a.random()), float(b.rand()), float(c.rand()), float(d.random())]"
    columns = list(zip(*clones(prepare, draw), strict=True))
    assert [len(set(column)) > 1 for column in columns] == [False, False, False, True, True]
    prepare = "import numpy as np; np.random.seed(5); np.random.seed()"
    assert len(set(clones(prepare, "float(np.random.random())"))) > 1


def test_a_failing_hook_is_named_and_stops_no_other(capsys):
    from nexus.guest.runtime import renewal

    ran = []

    def broken():
        raise RuntimeError("no entropy today")

    renewal.run([broken, lambda: ran.append(1)])
    assert ran
    assert "broken failed after the restore: RuntimeError: no entropy today" in capsys.readouterr().err
