"""Credentials stay on the host: a guest's whole memory is searched for them, after it has used S3."""

import hashlib
import hmac
import os
import time
from datetime import UTC, datetime

import pytest
from framework.memory import search
from nexus.guest.abi import PLACEHOLDER_SECRET


def signing_keys(secret, region="us-east-1", service="s3"):
    """What SigV4 derives from the secret, for the days that this test may touch."""
    for day in {datetime.now(UTC).strftime("%Y%m%d"), datetime.fromtimestamp(time.time() - 600, UTC).strftime("%Y%m%d")}:
        key = f"AWS4{secret}".encode()
        for part in (day, region, service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            yield key


HANDLER = """
import boto3

s3 = boto3.client("s3")

def handler(event, context):
    for turn in range(20):
        s3.put_object(Bucket=event["bucket"], Key="key", Body=b"x" * 70000)
        assert len(s3.get_object(Bucket=event["bucket"], Key="key")["Body"].read()) == 70000
    s3.list_objects_v2(Bucket=event["bucket"])
    s3.get_bucket_location(Bucket=event["bucket"])  # not on the fast path
    return "done"
"""


@pytest.fixture(scope="module")
def used(node, tmp_path_factory):
    """The process of an instance that has used S3."""
    folder = tmp_path_factory.mktemp("function")
    (folder / "uses_s3.py").write_text(HANDLER)
    node.s3.create_bucket(Bucket="searched")
    node.deploy("uses-s3", folder / "uses_s3.py", memory_mib=256, timeout_s=30, max_instances=1)
    payload, response = node.invoke("uses-s3", {"bucket": "searched"})
    assert not response.get("FunctionError"), payload
    status, instances = node.admin("GET", "/nexus/v1/instances")
    assert status == 200
    return next(one["pid"] for one in instances if one["function"] == "uses-s3")


def test_no_secret_in_the_guests_memory(node, used):
    if os.geteuid() != 0:
        pytest.skip("only root reads the memory of a jailed process")
    secret = node.credentials["secret_access_key"]
    needles = {"secret": secret.encode(), "placeholder": PLACEHOLDER_SECRET.encode(), "code": b"key", "body": b"x" * 4096}
    needles |= {f"signing key {n}": key for n, key in enumerate(signing_keys(secret))}
    found, searched = search(used, needles)
    assert searched > 8 << 20, "that is not the whole of it"
    # The search finds what is there, in the program's memory and in the arena ...
    assert {"placeholder", "code", "body"} <= found
    # ... and nothing that must not be.
    assert found <= {"placeholder", "code", "body"}, found


def test_the_key_id_is_not_there_either(node, used):
    if os.geteuid() != 0:
        pytest.skip("only root reads the memory of a jailed process")
    found, _ = search(used, {"key id": node.credentials["access_key_id"].encode()})
    assert not found


def test_an_instance_is_jailed_under_a_user_of_its_own(node, used):
    with open(f"/proc/{used}/status") as file:
        state = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert state["NoNewPrivs"] == "1"
    assert state["Seccomp"] == "2"
    assert all(int(state[name], 16) == 0 for name in ("CapPrm", "CapEff", "CapBnd"))
    if os.geteuid() == 0 and node.isolation == "kvm":
        assert set(state["Uid"].split()) == {"65534"}
        assert set(state["Gid"].split()) == {"65534"}
    held = [os.readlink(f"/proc/{used}/fd/{number}") for number in os.listdir(f"/proc/{used}/fd")]
    # One socket: the channel by which a microVM's hypervisor asks the backend for connections.
    sockets = [name for name in held if name.startswith("socket:")]
    assert len(sockets) == (1 if node.isolation == "kvm" else 0), held


SIGNS = """
import boto3

s3 = boto3.client("s3")

def handler(event, context):
    names = {"Bucket": "searched", "Key": "key"}
    made = [s3.generate_presigned_url(call, Params=names) for call in ("get_object", "put_object") for _ in range(10)]
    made.append(s3.generate_presigned_post(**names)["fields"]["x-amz-signature"])
    assert all("ignature" in url for url in made[:-1])
    return made
"""


def test_what_signs_is_not_in_the_memory_of_who_asked_for_signatures(node, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root reads the memory of a jailed process")
    (tmp_path / "signs.py").write_text(SIGNS)
    node.deploy("signs", tmp_path / "signs.py", memory_mib=256, timeout_s=30, max_instances=1)
    made, response = node.invoke("signs", {})
    assert not response.get("FunctionError"), made
    pid = next(one["pid"] for one in node.admin("GET", "/nexus/v1/instances")[1] if one["function"] == "signs")
    secret = node.credentials["secret_access_key"]
    # A signature bears the key's id, by which it is verified; that is all it needs.
    needles = {"secret": secret.encode(), "key id": node.credentials["access_key_id"].encode(), "signature": made[-1].encode()}
    needles |= {f"signing key {n}": key for n, key in enumerate(signing_keys(secret))}
    found, _ = search(pid, needles)
    assert found == {"key id", "signature"}
