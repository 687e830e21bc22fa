"""Other services and other packages: the same program natively and in an instance, compared.

What needs large downloads (pandas, the stand-in for AWS's services) runs with NEXUS_ECOSYSTEM=1, by `make transparency`.
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from framework import kvm
from framework.node import TestNode
from framework.servers import Moto

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
ALL = os.environ.get("NEXUS_ECOSYSTEM") == "1"
SERVICES = [
    "dynamodb",
    "sqs",
    "sns",
    "ssm",
    "secretsmanager",
    "kms",
    "sts",
    "kinesis",
    "events",
    "logs",
    "cloudwatch",
    "iam",
    "lambda",
]
full = pytest.mark.skipif(not ALL, reason="needs large downloads: make transparency")


def installed(name):
    """Directory with what a requirements file names; kept from run to run."""
    from nexus.packaging import interpreter
    from nexus.packaging.depot import Depot
    from nexus.packaging.requirements import add_requirements

    return add_requirements(
        Depot(Path(os.environ["NEXUS_PACKAGES"])), REQUIREMENTS / f"{name}.txt", interpreter.find(None).executable
    )


def native(module, event, path, environment):
    program = f"import json, sys, {module}; print(json.dumps({module}.handler(json.loads(sys.argv[1]), None)))"
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        **environment,
    }
    command = [sys.executable, "-B", "-c", program, json.dumps(event)]
    done = subprocess.run(command, env=variables, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout.decode().splitlines()[-1])


def same(expected, actual):
    different = [(left, right) for left, right in zip(expected, actual, strict=True) if left != right]
    assert not different, "\n".join(f"native {left}\nshim   {right}" for left, right in different)


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """A node whose other services are a stand-in's, and the environment of a native program."""
    server = Moto(installed("servers"), tmp_path_factory.mktemp("moto"))
    isolation = "process" if kvm.reason_missing() else "kvm"
    endpoints = tuple((service, server.url) for service in SERVICES)
    node = TestNode.start(tmp_path_factory.mktemp("node"), isolation, endpoints=endpoints)
    yield node, {"AWS_ENDPOINT_URL": server.url, **keys(node)}
    node.close()
    server.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A node, and the environment of a native program that uses its store."""
    isolation = "process" if kvm.reason_missing() else "kvm"
    # Event loops need socket pairs, which a shell's filter does not let through.
    node = TestNode.start(tmp_path_factory.mktemp("node"), isolation, shells=0)
    yield node, {"AWS_ENDPOINT_URL_S3": node.store_endpoint, **keys(node)}
    node.close()


def keys(node):
    return {
        "AWS_ACCESS_KEY_ID": node.credentials["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": node.credentials["secret_access_key"],
    }


@full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["dynamodb", "messages", "secrets", "streams", "functions"])
def test_services(aws, scenario):
    node, environment = aws
    if "services" not in [f["FunctionName"] for f in node.lambda_client.list_functions()["Functions"]]:
        node.deploy("services", HERE, handler="services.handler", memory_mib=512, timeout_s=120)
    expected = native("services", {"scenario": scenario, "mark": uuid.uuid4().hex[:8]}, [HERE], environment)
    actual, response = node.invoke("services", {"scenario": scenario, "mark": uuid.uuid4().hex[:8]})
    assert not response.get("FunctionError"), actual
    same(expected, actual)


CASES = [("function", "powertools"), ("function", "smart"), ("function", "files"), ("function", "aio"), ("function", "signed")]
CASES += [pytest.param("data", name, marks=full) for name in ("files", "data")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("requirements", "scenario"), CASES)
def test_packages(plain, requirements, scenario):
    node, environment = plain
    name = f"packages-{requirements}"
    if name not in [f["FunctionName"] for f in node.lambda_client.list_functions()["Functions"]]:
        file = REQUIREMENTS / f"{requirements}.txt"
        node.deploy(name, HERE, handler="packages.handler", memory_mib=1024, timeout_s=120, requirements=file)
    paths = [HERE, installed(requirements)]
    event = {"scenario": scenario, "store": node.store_endpoint, "keys": list(keys(node).values())}
    expected = native("packages", {**event, "bucket": f"native-{uuid.uuid4().hex[:8]}"}, paths, environment)
    actual, response = node.invoke(name, {**event, "bucket": f"shimmd-{uuid.uuid4().hex[:8]}"})
    assert not response.get("FunctionError"), f"{actual}\n{node.logs(name)}"
    same(expected, actual)
