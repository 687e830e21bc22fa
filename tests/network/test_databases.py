"""Clients of databases, as functions use them: PostgreSQL by psycopg, Redis by redis-py, against real servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from framework.node import TestNode

pytestmark = pytest.mark.kvm

HANDLER = """
import os

def postgres(port):
    import psycopg
    with psycopg.connect(host="127.0.0.1", port=port, dbname="postgres", user="nexus", connect_timeout=20) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS t (id serial, body text)")
            cursor.executemany("INSERT INTO t (body) VALUES (%s)", [(f"row {n}",) for n in range(100)])
            cursor.execute("SELECT count(*), max(body) FROM t")
            result = list(cursor.fetchone())
            with cursor.copy("COPY t (body) FROM STDIN") as copy:
                for n in range(1000):
                    copy.write_row(("x" * 1000,))
            cursor.execute("SELECT sum(length(body)) FROM t WHERE body LIKE 'xxx%'")
            result.append(cursor.fetchone()[0])
        connection.rollback()
    try:
        psycopg.connect(host="127.0.0.1", port=1, user="nexus", connect_timeout=20)
    except psycopg.OperationalError as error:
        result.append("refused" in str(error))
    return result

def redis(port):
    import redis
    client = redis.Redis(port=port, socket_timeout=20)
    with client.pipeline() as pipeline:
        for n in range(1000):
            pipeline.set(f"key {n}", "v" * n)
        pipeline.execute()
    subscriber = client.pubsub()
    subscriber.subscribe("news")
    client.publish("news", "hello")
    heard = []
    while len(heard) < 2:
        message = subscriber.get_message(timeout=20)
        heard.append(message["type"])
    return [client.strlen("key 999"), client.incr("counter"), heard]

def handler(event, context):
    return globals()[event["call"]](event["port"])
"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A PostgreSQL server of the test's own; its port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    program = Path(found[-1] if found else shutil.which("postgres") or "")
    if not program.is_file():
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    data = tmp_path_factory.mktemp("postgres") / "data"
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        identity = {"user": 65534, "group": 65534, "extra_groups": []}
        for directory in (data.parent, *data.parent.parents):
            if str(directory).startswith("/tmp/"):  # noqa: S108 - pytest's own
                directory.chmod(0o755)
        os.chown(data.parent, 65534, 65534)
    run: dict[str, Any] = {"check": True, "capture_output": True, "cwd": data.parent, **identity}
    subprocess.run([program.with_name("initdb"), "-D", data, "-U", "nexus", "-A", "trust", "--no-sync"], **run)
    port = free_port()
    options = ["-D", data, "-p", str(port), "-k", data.parent, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen(
        [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=data.parent, **identity
    )
    try:
        deadline = time.monotonic() + 60
        ready = [program.with_name("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Redis server of the test's own; its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (Debian: redis-server)")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def query(kvm_node: TestNode, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Any]:
    """Run one client in a function that may reach the server."""
    folder = tmp_path_factory.mktemp("databases")
    (folder / "databases.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text("psycopg[binary]==3.2.10\nredis==6.4.0\n")

    def run(call: str, port: int) -> Any:
        name = f"database-{call}"
        kvm_node.deploy(
            name,
            folder / "databases.py",
            timeout_s=120,
            requirements=folder / "requirements.txt",
            policy={"egress": [f"127.0.0.1:{port}"]},
        )
        payload, response = kvm_node.invoke(name, {"call": call, "port": port})
        assert not response.get("FunctionError"), payload
        return payload

    return run


def test_psycopg(query: Callable[[str, int], Any], postgres: int) -> None:
    assert query("postgres", postgres) == [100, "row 99", 1_000_000, True]


def test_redis(query: Callable[[str, int], Any], redis: int) -> None:
    assert query("redis", redis) == [999, 1, ["subscribe", "message"]]
