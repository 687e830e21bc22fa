"""Bodies larger than memory, unread bodies, and transfers of many threads."""

import hashlib
import json
import os
import uuid
from pathlib import Path

import pytest
from botocore.config import Config

HERE = Path(__file__).parent
MIB = 1 << 20
# By `make transparency` with NEXUS_LARGE_MIB=2048.
LARGE_MIB = int(os.environ.get("NEXUS_LARGE_MIB", "200"))


@pytest.fixture(scope="module")
def bucket(node):
    name = f"streams-{uuid.uuid4().hex[:8]}"
    node.s3.create_bucket(Bucket=name)
    for memory in (128, 512):
        node.deploy(f"stream-{memory}", HERE, handler="streaming.handler", memory_mib=memory, timeout_s=800)
    return name


def run(node, memory, event):
    # The node's own client gives up after a minute.
    patient = node.nexus.lambda_client(config=Config(retries={"total_max_attempts": 1}, read_timeout=880))
    response = patient.invoke(FunctionName=f"stream-{memory}", Payload=json.dumps(event).encode())
    payload = json.loads(response["Payload"].read())
    assert not response.get("FunctionError"), f"{payload}\n{node.logs(f'stream-{memory}')}"
    return payload


@pytest.mark.timeout(900)
def test_an_object_much_larger_than_the_function(node, bucket):
    if node.isolation == "process" and LARGE_MIB < 1024:
        pytest.skip("a process's memory is not limited")
    size = LARGE_MIB * MIB + 12345
    done = run(node, 128, {"what": "large", "bucket": bucket, "size": size})
    print(done)
    expected = hashlib.sha256()
    block = hashlib.shake_256(b"pattern").digest(MIB)
    for _ in range(LARGE_MIB):
        expected.update(block)
    expected.update(block[:12345])
    assert (done["size"], done["sha256"]) == (size, expected.hexdigest())
    assert node.s3.head_object(Bucket=bucket, Key="large")["ContentLength"] == size


def test_unread_bodies_hold_little(node, bucket):
    data = os.urandom(3 * MIB)
    node.s3.put_object(Bucket=bucket, Key="object", Body=data)
    done = run(node, 128, {"what": "unread", "bucket": bucket, "count": 200})
    assert done["same"]
    assert done["digests"] == [hashlib.sha256(data).hexdigest()] * 2


@pytest.mark.parametrize("threads", [1, 3])
def test_bodies_that_are_kept_stay_what_they_are(node, bucket, threads):
    digests = {}
    for number, size in enumerate((70_000, 131_072, 300_001, MIB - 64, MIB, MIB + 1, 2 * MIB)):
        data = os.urandom(size)
        digests[f"kept/{number}"] = hashlib.sha256(data).hexdigest()
        node.s3.put_object(Bucket=bucket, Key=f"kept/{number}", Body=data)
    event = {"what": "kept", "bucket": bucket, "objects": len(digests), "digests": digests, "threads": threads, "steps": 18}
    for _ in range(2):
        # Where instances are processes, bodies are copied.
        assert run(node, 512, event) == {"wrong": [], "lent": node.isolation == "kvm"}


def test_transfers_of_ten_threads_do_not_starve_each_other(node, bucket):
    if node.isolation == "process":
        pytest.skip("the same code, and the machine has two cores")
    assert run(node, 512, {"what": "threads", "bucket": bucket, "transfers": 4}) == []
