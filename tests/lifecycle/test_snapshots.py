"""Snapshots as functions see them, and as the node keeps them (docs/snapshots.md)."""

import json
import re
import time
from pathlib import Path

import pytest
from nexus.errors import ServiceError

pytestmark = pytest.mark.usefixtures("clones")
# The size of a page of memory, and of a huge one.
PAGE = 4096
CHUNK = 2 << 20


@pytest.fixture
def clones(node):
    if node.isolation != "kvm":
        pytest.skip("there are no snapshots of processes")


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.02)


def instances(node, name):
    return [one for one in node.admin("GET", "/nexus/v1/instances")[1] if one["function"] == name]


def cold(node, name, event=None):
    node.admin("POST", f"/nexus/v1/functions/{name}/evict")
    until(lambda: not instances(node, name))
    return node.invoke(name, event or {})


def content(node):
    return node.kept / "snapshots" / "content"


def snapshot_of(node, name):
    """The directory of a function's snapshot."""
    record = node.kept / "functions" / f"{name}.json"
    return content(node) / json.loads(record.read_text())["snapshot"]


def test_threads_hooks_and_generations_in_clones(node, handlers):
    node.deploy("clones", handlers / "snapshots.py", memory_mib=128, max_instances=1, timeout_s=60)
    seen = []
    for _ in range(3):
        payload, response = cold(node, "clones")
        assert not response.get("FunctionError"), payload
        assert payload["ran"] == ["before 2", "before 1", "after 1", "after 2"]
        assert payload["answers"], "a thread that waited for a condition is gone"
        before, after = payload["generations"]
        assert after == before + 1
        seen.append({**payload["drawn"], "identity": payload["identity"]})
    assert sorted(seen[0]) == ["choice", "identity", "random", "secrets", "uuid4"]
    for name in seen[0]:
        assert len({one[name] for one in seen}) == len(seen), f"{name} repeats"
    assert "were let go" not in node.logs("clones")


def test_a_hook_that_fails_before_the_snapshot_fails_the_deployment(node, handlers):
    with pytest.raises(ServiceError) as caught:
        node.deploy("hook", handlers / "hook_fails.py", memory_mib=128, environment={"SIDE": "before"})
    assert "HookError: no connection" in str(caught.value)


def test_a_hook_that_fails_after_the_restore_fails_the_invocation(node, handlers):
    node.deploy("hook", handlers / "hook_fails.py", memory_mib=128, max_instances=1, environment={"SIDE": "after"})
    for _ in range(2):
        payload, response = node.invoke("hook", {})
        assert response.get("FunctionError")
        assert (payload["errorType"], payload["errorMessage"]) == ("HookError", "no connection")
        assert "in fail" in payload["stackTrace"][-1]
    assert "[ERROR] HookError: no connection" in node.logs("hook")


def test_functions_share_their_base_in_memory_and_on_disk(node, handlers):
    names = [f"shares-{n}" for n in range(5)]
    for name in names:
        node.deploy(name, handlers / "lifecycle.py", memory_mib=128, max_instances=1, environment={"NAME": name})
        assert node.invoke(name, {})[1].get("FunctionError") is None
    found = [snapshot_of(node, name) for name in names]
    (inode,) = {(path / "base").stat().st_ino for path in found}
    base = (found[0] / "base").stat()
    assert base.st_nlink > len(names)
    own = [(path / "pages").stat().st_blocks * 512 for path in found]
    assert max(own) < base.st_blocks * 512 / 2, (own, base.st_blocks * 512)
    print(f"own pages {max(own) >> 20} MiB beside a base of {base.st_blocks >> 11} MiB")
    for name in names:
        (instance,) = instances(node, name)
        rss, pss = shown(instance["pid"], inode)
        assert rss > 1 << 18
        assert pss < rss / 3, "its base is not shared"


_FREES = """
# Of a size that the C library keeps in its heap, where the last one holds the place of those before it.
pieces = [b"a" * 100_000 for _ in range(400)]
held = b"b" * 100_000
del pieces

def handler(event, context):
    return held == b"b" * 100_000
"""


def test_memory_that_is_free_is_not_in_the_snapshot(node, tmp_path):
    (tmp_path / "frees.py").write_text(_FREES)
    node.deploy("frees", tmp_path / "frees.py", memory_mib=256)
    assert node.invoke("frees", {})[0] is True
    pages = (snapshot_of(node, "frees") / "pages").stat().st_blocks * 512
    assert pages < 30 << 20, f"{pages >> 20} MiB"


_KEEPS = """
import fcntl, os, sqlite3

database = sqlite3.connect("/tmp/data.db")
database.execute("create table t(x)")
database.commit()
open("/tmp/one", "w").write("content")
os.link("/tmp/one", "/tmp/two")
os.utime("/tmp/one", ns=(1_000_000_001, 2_000_000_003))
gone = open("/tmp/gone", "w+")
gone.write("still here")
gone.flush()
os.unlink("/tmp/gone")
locked = open("/tmp/lock", "w")
fcntl.flock(locked, fcntl.LOCK_EX)

def look():
    files = [os.stat(name) for name in ("/tmp/one", "/tmp/two", "/tmp/data.db", "/tmp", gone.fileno())]
    files = [(s.st_ino, s.st_nlink, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in files]
    try:
        fcntl.flock(open("/tmp/lock"), fcntl.LOCK_SH | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    gone.seek(0)
    return [files, free, gone.read()]

before = look()

def handler(event, context):
    same = look() == before
    database.execute("insert into t values (1)")
    database.commit()
    return [same, before[1], database.execute("select count(*) from t").fetchone()[0]]
"""


def test_files_of_tmp_are_the_same_ones_in_a_clone(node, tmp_path):
    (tmp_path / "keeps.py").write_text(_KEEPS)
    node.deploy("keeps", tmp_path / "keeps.py", memory_mib=128)
    for _ in range(2):
        payload, response = cold(node, "keeps")
        assert not response.get("FunctionError"), payload
        assert payload == [True, False, 1]


_BRINGS = """
import json, sys
import jmespath

def handler(event, context):
    return [getattr(sys.modules.get(name), "MARK", None) for name in ("jmespath", "dateutil", "sitecustomize", "harmless")]
"""


def brings(folder, *names):
    """A function with these files beside its handler, modules with a mark among them."""
    folder.mkdir()
    (folder / "own.py").write_text(_BRINGS)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("MARK = 'own'\n")
    return folder


def is_based(node, name):
    return (snapshot_of(node, name) / "base").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jmespath.py", ["own", None, None, None]),
        ("jmespath/__init__.py", ["own", None, None, None]),
        ("sitecustomize.py", [None, None, None, None]),
    ],
)
def test_a_base_that_does_not_suit_a_function_is_left_for_that_function_alone(node, tmp_path, name, expected):
    """What is loaded in the base already would hide the function's own: it is initialised once more, from nothing."""
    mark = re.sub(r"\W", "-", name)
    node.deploy(f"brings-{mark}", brings(tmp_path / "brings", name), handler="own.handler", memory_mib=128)
    assert not is_based(node, f"brings-{mark}")
    for _ in range(2):
        payload, response = cold(node, f"brings-{mark}")
        assert not response.get("FunctionError"), payload
        assert payload == expected
    # The step that failed is told, and is not the function's failure.
    log = node.logs(f"brings-{mark}")
    assert log.count("INIT_START") == log.count("INIT_REPORT") == 1
    assert f"{name.partition('/')[0]} is to be imported instead of a module that the base has" in log
    # The next function has the base still, and has what only looks like modules.
    harmless = brings(tmp_path / "harmless", "harmless.py", "jmespath.txt", "dateutil.md")
    node.deploy(f"after-{mark}", harmless, handler="own.handler", memory_mib=128)
    assert is_based(node, f"after-{mark}")
    assert cold(node, f"after-{mark}")[0] == [None] * 4


def test_a_base_has_the_text_of_its_interpreter_by_huge_pages(node, handlers):
    node.deploy("text", handlers / "basic.py", memory_mib=128, max_instances=1)
    assert node.invoke("text", {})[1].get("FunctionError") is None
    inode = (snapshot_of(node, "text") / "base").stat().st_ino
    (instance,) = instances(node, "text")
    chunks = 0
    for line in Path(f"/proc/{instance['pid']}/maps").read_text().splitlines():
        ends, flags, offset, _, number, *_ = line.split()
        start, end = (int(at, 16) for at in ends.split("-"))
        if number == str(inode) and flags == "r--p" and (start - int(offset, 16)) % CHUNK == 0:
            chunks += max(0, end // CHUNK - -(-start // CHUNK))
    assert chunks, "no huge page could show any of it"


def shown(pid, inode):
    """Resident and proportional bytes of a process's mappings of a file."""
    rss = pss = 0
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            ours = line.split()[4] == str(inode)
        elif ours and line.startswith("Rss:"):
            rss += int(line.split()[1]) << 10
        elif ours and line.startswith("Pss:"):
            pss += int(line.split()[1]) << 10
    return rss, pss


def test_unused_snapshots_are_deleted_and_used_ones_are_read_only(node, handlers):
    node.deploy("old", handlers / "basic.py", memory_mib=128)
    old = snapshot_of(node, "old")
    assert old.stat().st_mode & 0o777 == 0o555
    assert {path.stat().st_mode & 0o777 for path in old.iterdir()} == {0o444}
    node.deploy("old", handlers / "lifecycle.py", memory_mib=128)
    new = snapshot_of(node, "old")
    until(lambda: not old.exists())
    assert new.exists()
    node.admin("DELETE", "/nexus/v1/functions/old")
    until(lambda: not new.exists())


def replace(path, data):
    """As if the disk had changed it: no process writes to a file that is kept."""
    path.parent.chmod(0o755)
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.rename(path)


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("file", "damage", "word"),
    [
        ("metadata", lambda data: flipped(data, 9), "header is damaged"),
        ("metadata", lambda data: flipped(data, len(data) // 2), "damaged (checksum)"),
        ("metadata", lambda data: data[:-1], "bytes long"),
        ("pages", lambda data: data[:-PAGE], "pages file has"),
        ("base", lambda data: data[:-PAGE], "base file has"),
    ],
    ids=["header", "payload", "cut", "pages", "base"],
)
def test_a_refused_function_is_initialised_anew_and_served(node, handlers, file, damage, word):
    if not instances(node, "refused") and not (node.kept / "functions" / "refused.json").exists():
        node.deploy("refused", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    node.admin("POST", "/nexus/v1/functions/refused/evict")
    until(lambda: not instances(node, "refused"))
    path = snapshot_of(node, "refused") / file
    replace(path, damage(path.read_bytes()))
    payload, response = node.invoke("refused", {})
    assert not response.get("FunctionError"), payload
    assert payload["calls"] == 1
    refusals = [line for line in node.logs("refused").splitlines() if "the snapshot is refused" in line]
    assert word in refusals[-1]
    until(lambda: not path.exists())
    again, _ = cold(node, "refused")
    assert again["calls"] == 1
    assert len([line for line in node.logs("refused").splitlines() if "is refused" in line]) == len(refusals)
