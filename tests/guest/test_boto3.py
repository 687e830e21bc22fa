"""What the shim does that a comparison with real boto3 cannot show: which level is used, and where it says no."""

import json
import os
import sys

import pytest
from nexus.guest import abi
from support import run

PRELUDE = """
import json, os
from nexus.guest import abi, device
from nexus.guest.device.rehearsal import RehearsalTransport
operations = []
HEADERS = [["content-length", "4"], ["x-amz-request-id", "r"]]
def answer(operation, head):
    request = json.loads(head)
    operations.append(request.get("op") or request)
    body = b"body" if b"Get" in head or operation == abi.HTTP else b""
    return 0, json.dumps({"status": 200, "headers": HEADERS, "retries": 0}).encode(), body
device._channel = device.Channel(RehearsalTransport(answer))
from nexus.guest.shims import boto3_api
boto3_api.install("api")
import boto3
"""


def program(text):
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "AWS_ACCESS_KEY_ID": abi.PLACEHOLDER_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": abi.PLACEHOLDER_SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return json.loads(run([sys.executable, "-B", "-c", PRELUDE + text], env=environment))


@pytest.mark.parametrize(
    ("call", "fast"),
    [
        ("c.get_object(Bucket='bucket', Key='k')", True),
        ("c.put_object(Bucket='bucket', Key='k', Body=b'x')", True),
        ("c.put_object(Bucket='bucket', Key='k', Body=b'x' * 3_000_000)", False),
        ("c.get_object(Bucket='bucket', Key='a/../b')", False),
        ("c.get_object(Bucket='express--use1-az4--x-s3', Key='k')", False),
        ("c.get_object(Bucket='arn:aws:s3:us-east-1:000000000000:accesspoint/p', Key='k')", False),
        ("c.get_object(Bucket='bucket', Key='k', SSECustomerAlgorithm='AES256', SSECustomerKey='0' * 32)", True),
        ("c.get_bucket_location(Bucket='bucket')", True),
        ("c.list_object_versions(Bucket='bucket')", True),
        ("c.put_object_tagging(Bucket='bucket', Key='k', Tagging={'TagSet': []})", True),
        ("c.upload_part(Bucket='bucket', Key='k', PartNumber=1, UploadId='u', Body=b'x', ChecksumAlgorithm='SHA256')", True),
        ("c.get_bucket_acl(Bucket='bucket')", False),
        ("boto3.client('s3', aws_access_key_id='a', aws_secret_access_key='b').get_object(Bucket='bucket', Key='k')", False),
        ("hooked.get_object(Bucket='bucket', Key='k')", False),
    ],
)
def test_level(call, fast):
    text = f"""
c = boto3.client("s3")
hooked = boto3.client("s3")
hooked.meta.events.register("before-send.s3", lambda **_: None)
try:
    {call}
except Exception as error:
    assert operations, error
print(json.dumps([type(one) is str for one in operations[:1]]))
"""
    assert program(text) == [fast]


def test_clients_are_looked_at_before_the_snapshot_and_again_where_they_change():
    text = """
from unittest.mock import patch
from botocore.client import BaseClient
from nexus.guest.runtime import prepare
from nexus.guest.shims.boto3_api import api
class Broken(BaseClient):
    def __init__(self):
        pass
broken, plain, changed = Broken(), boto3.client("s3"), boto3.client("s3")
prepare.clients()
(fast,) = api._installed
with patch.object(fast, "judge", wraps=fast.judge) as judge:
    plain.get_object(Bucket="bucket", Key="k")
    before = judge.call_count
    changed.meta.events.register("before-send.s3", lambda **_: None)
    changed.get_object(Bucket="bucket", Key="k")
    print(json.dumps([before, judge.call_count, [type(one) is str for one in operations]]))
"""
    assert program(text) == [0, 1, [True, False]]


def test_requests_leave_unsigned_with_their_scope_and_without_any_key():
    text = """
boto3.client("dynamodb", region_name="eu-west-1").list_tables()
print(json.dumps(operations[0]))
"""
    request = program(text)
    assert request["sign"] == {"service": "dynamodb", "region": "eu-west-1"}
    names = {name.lower() for name, _ in request["headers"]}
    assert "authorization" not in names
    assert abi.PLACEHOLDER_SECRET not in json.dumps(request)


def test_signatures_are_asked_for_without_any_key():
    text = """
answers = []
device._channel._transport._answer = None
def answer(operation, head):
    request = json.loads(head)
    operations.append([operation, request])
    return 0, json.dumps({"url": "https://signed", "fields": [["policy", "p"]]}).encode(), b""
device._channel._transport._answer = answer
s3 = boto3.client("s3")
made = [
    s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "a b"}, ExpiresIn=60),
    s3.generate_presigned_post("bucket", "k")["fields"],
    boto3.client("rds").generate_db_auth_token("db.example", 3306, "me"),
]
print(json.dumps([made, operations]))
"""
    made, operations = program(text)
    assert made == ["https://signed", {"key": "k", "policy": "p"}, "signed"]
    assert [operation for operation, _ in operations] == [abi.PRESIGN] * 3
    get, post, token = (head for _, head in operations)
    assert get["url"] == "https://bucket.s3.amazonaws.com/a%20b"
    assert (get["method"], get["service"], get["expires_s"]) == ("GET", "s3", 60)
    assert post["conditions"] == [{"bucket": "bucket"}, {"key": "k"}]
    assert 3590 <= post["expires_s"] <= 3600
    assert token["url"] == "https://db.example:3306/?Action=connect&DBUser=me"
    assert (token["service"], token["expires_s"]) == ("rds-db", 900)
    assert abi.PLACEHOLDER_SECRET not in json.dumps(operations)


def test_copies_of_a_client_are_independent():
    text = """
first = boto3.client("s3")
second = boto3.client("s3")
seen = []
first.meta.events.register("provide-client-params.s3", lambda **_: seen.append(1))
second.get_object(Bucket="bucket", Key="k")
assert not seen
first.get_object(Bucket="bucket", Key="k")
third = boto3.client("s3")
third.get_object(Bucket="bucket", Key="k")
signers = {id(client._request_signer) for client in (first, second, third)}
print(json.dumps([len(seen), len(signers), [type(one) is str for one in operations]]))
"""
    assert program(text) == [1, 3, [True, False, True]]
