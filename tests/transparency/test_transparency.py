"""The same program gives the same results, types and exceptions with real boto3 and with the shim."""

import importlib
import json
import logging
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import stub_services

NAMES = [
    "put",
    "get",
    "streams",
    "listing",
    "others",
    "resources",
    "transfers",
    "hooks",
    "configured",
    "threads",
    "services",
    "explicit",
]
NATIVE = "import json, sys, scenarios; print(json.dumps(scenarios.handler(json.loads(sys.argv[1]), None)))"


@pytest.fixture(scope="module")
def store():
    """An S3 server as (endpoint, key id, secret)."""
    moto = importlib.import_module("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}", "AKIDEXAMPLE", "example-secret"
    server.stop()


@pytest.fixture(scope="module", params=["api", "http"])
def shimmed(request, store):
    """Runs the handler in a guest whose backend is the Python stand-in."""
    sys.path.insert(0, str(HERE.parent / "guest"))
    from fake_backend import FakeBackend

    endpoint, key, secret = store
    backend = FakeBackend(endpoint, (key, secret))
    process = backend.start("scenarios.handler", HERE, NEXUS_OFFLOAD=request.param)
    yield lambda event: _outcome(backend.invoke(json.dumps(event).encode(), timeout=110))
    process.kill()
    output, _ = process.communicate()
    print(output.decode())
    backend.close()


def _outcome(outcome):
    flag, body, _ = outcome
    document = json.loads(body)
    assert flag == 1, "\n".join(document["stackTrace"]) + document["errorMessage"]
    return document


def native(store, event):
    endpoint, key, secret = store
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(HERE),
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_LAMBDA_FUNCTION_NAME": "f",
    }
    done = subprocess.run(
        [sys.executable, "-B", "-c", NATIVE, json.dumps(event)], env=environment, capture_output=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def event(name, bucket, store, stub):
    return {"scenario": name, "bucket": bucket, "stub": stub, "credentials": store[1:]}


@pytest.mark.parametrize("name", NAMES)
def test_same_outcome(name, store, shimmed):
    mark = uuid.uuid4().hex[:8]
    with stub_services.serve() as stub:
        expected = native(store, event(name, f"native-{mark}", store, stub))
    with stub_services.serve() as stub:
        actual = shimmed(event(name, f"shimmd-{mark}", store, stub))
    different = [(left, right) for left, right in zip(expected, actual, strict=True) if left != right]
    assert not different, "\n".join(f"native {left}\nshim   {right}" for left, right in different)
