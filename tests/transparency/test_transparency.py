"""The same program gives the same results, types and exceptions with real boto3 and with the shim."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from framework import kvm
from framework.node import TestNode

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest")]

import stub_services

NAMES = ["put", "get", "streams", "listing", "others", "resources", "transfers", "hooks", "configured", "threads", "explicit"]
NAMES += ["tagging", "versions", "multipart", "checksums", "encryption", "conditions"]
# These reach for servers that a node's policy keeps functions from.
ELSEWHERE = ["services", "event_streams", "unreachable"]
NATIVE = "import json, sys, scenarios; print(json.dumps(scenarios.handler(json.loads(sys.argv[1]), None)))"


@pytest.fixture(scope="module")
def store(binaries, tmp_path_factory):
    """The object store by itself, as (endpoint, key id, secret)."""
    folder = tmp_path_factory.mktemp("store")
    key, secret = "AKIDEXAMPLE", "example-secret"
    (folder / "credentials.json").write_text(json.dumps({"access_key_id": key, "secret_access_key": secret}))
    (folder / "credentials.json").chmod(0o600)
    address = folder / "address.json"
    command = [binaries / "nexus-store", "--listen", "127.0.0.1:0", "--directory", folder / "data"]
    command += ["--credentials", folder / "credentials.json", "--address-file", address]
    (folder / "data").mkdir()
    process = subprocess.Popen(command)
    for _ in range(200):
        if address.exists():
            break
        time.sleep(0.05)
    yield f"http://{json.loads(address.read_text())['address']}", key, secret
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module", params=["api", "http"])
def shimmed(request, store):
    """Runs the handler in a guest whose backend is the Python stand-in."""
    from fake_backend import FakeBackend

    endpoint, key, secret = store
    backend = FakeBackend(endpoint, (key, secret))
    process = backend.start("scenarios.handler", HERE, NEXUS_OFFLOAD=request.param)
    yield lambda event: _outcome(backend.invoke(json.dumps(event).encode(), timeout=60))
    process.kill()
    output, _ = process.communicate()
    print(output.decode())
    backend.close()


@pytest.fixture(scope="module", params=["api", "http"])
def deployed(request, node):
    """Runs the handler in an instance of a real node."""
    name = f"scenarios-{request.param}"
    node.deploy(name, HERE, handler="scenarios.handler", memory_mib=512, timeout_s=60, offload=request.param)

    def run(event):
        payload, response = node.invoke(name, event)
        assert not response.get("FunctionError"), f"{payload}\n{node.logs(name)}"
        return payload

    return run


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


_natively = {}


def compare(name, store, run):
    mark = uuid.uuid4().hex[:8]
    # Once for each server: every level is compared with it.
    if (name, store) not in _natively:
        with stub_services.serve() as stub:
            _natively[name, store] = native(store, event(name, f"native-{mark}", store, stub))
    expected = _natively[name, store]
    with stub_services.serve() as stub:
        actual = run(event(name, f"shimmd-{mark}", store, stub))
    same(expected, actual)


def same(expected, actual):
    different = [(left, right) for left, right in zip(expected, actual, strict=True) if left != right]
    assert not different, "\n".join(f"native {left}\nshim   {right}" for left, right in different)


@pytest.mark.parametrize("name", NAMES + ELSEWHERE)
def test_same_outcome_on_the_stand_in(name, store, shimmed):
    compare(name, store, shimmed)


@pytest.mark.parametrize("name", NAMES)
def test_same_outcome_on_a_node(name, node, deployed):
    keys = node.credentials
    compare(name, (node.store_endpoint, keys["access_key_id"], keys["secret_access_key"]), deployed)


def test_a_denied_endpoint_is_named(node, deployed):
    mark = uuid.uuid4().hex[:8]
    for name, outcome in deployed({"scenario": "unreachable", "bucket": f"denied-{mark}", "stub": "", "credentials": ["", ""]}):
        assert outcome["raised"] == "botocore.exceptions.HTTPClientError", name
        assert "functions may not reach http://" in outcome["text"]


@pytest.mark.parametrize("offload", ["api", "http"])
def test_event_streams_of_a_nodes_own_endpoints(offload, store, tmp_path):
    isolation = "process" if kvm.reason_missing() else "kvm"
    with stub_services.serve() as stub:
        own = tuple((service, stub) for service in ("dynamodb", "lambda", "kinesis", "bedrock", "s3"))
        node = TestNode.start(tmp_path, isolation, endpoints=own)
        try:
            node.deploy("streams", HERE, handler="scenarios.handler", memory_mib=512, timeout_s=60, offload=offload)
            mark = uuid.uuid4().hex[:8]
            expected = native(store, event("event_streams", f"native-{mark}", store, stub))
            actual, response = node.invoke("streams", event("event_streams", f"shimmd-{mark}", store, stub))
            assert not response.get("FunctionError"), f"{actual}\n{node.logs('streams')}"
            same(expected, actual)
        finally:
            node.close()
