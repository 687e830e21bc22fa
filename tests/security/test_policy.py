"""A function does what its policy allows, and meets AWS's own error where it does not."""

from __future__ import annotations

import json

import pytest
from nexus.errors import NexusError, ServiceError
from nexus.packaging.policy import read_policy

HANDLER = """
import boto3
from botocore.exceptions import ClientError

s3 = boto3.client("s3")
dynamodb = boto3.client("dynamodb")
sns = boto3.client("sns")
functions = boto3.client("lambda")

CALLS = {
    "get": lambda e: s3.get_object(Bucket=e["bucket"], Key=e["key"])["Body"].read().decode(),
    "head": lambda e: s3.head_object(Bucket=e["bucket"], Key=e["key"])["ContentLength"],
    "put": lambda e: s3.put_object(Bucket=e["bucket"], Key=e["key"], Body=b"new")["ETag"],
    "list": lambda e: [o["Key"] for o in s3.list_objects_v2(Bucket=e["bucket"], Prefix=e["key"]).get("Contents", [])],
    "copy": lambda e: s3.copy_object(Bucket=e["bucket"], Key=e["key"], CopySource=e["source"])["CopyObjectResult"]["ETag"],
    "tags": lambda e: s3.get_bucket_tagging(Bucket=e["bucket"]),
    "buckets": lambda e: len(s3.list_buckets()["Buckets"]),
    "table": lambda e: dynamodb.put_item(TableName="t", Item={"k": {"S": "v"}}),
    "publish": lambda e: sns.publish(TopicArn="arn:aws:sns:us-east-1:1:t", Message="m"),
    "invoke": lambda e: functions.invoke(FunctionName="f"),
}

def handler(event, context):
    try:
        return {"value": CALLS[event["call"]](event)}
    except ClientError as error:
        reply = error.response
        return {"code": reply["Error"]["Code"], "message": reply["Error"]["Message"],
                "status": reply["ResponseMetadata"]["HTTPStatusCode"]}
"""

POLICY = {
    "services": ["s3:GetObject", "s3:PutObject", "s3:ListBucket", "dynamodb:GetItem"],
    "buckets": [{"name": "inbox", "prefix": "in/", "access": "read"}, {"name": "outbox", "access": "write"}],
}


@pytest.fixture(scope="module")
def call(node, tmp_path_factory):
    """Make one call in a function under the policy."""
    folder = tmp_path_factory.mktemp("function")
    (folder / "under_policy.py").write_text(HANDLER)
    for bucket in ("inbox", "outbox", "other"):
        node.s3.create_bucket(Bucket=bucket)
        node.s3.put_object(Bucket=bucket, Key="in/k", Body=b"content")
        node.s3.put_object(Bucket=bucket, Key="k", Body=b"content")
    node.deploy("under-policy", folder / "under_policy.py", timeout_s=30, policy=POLICY)

    def make(name, bucket="inbox", key="in/k", **more):
        payload, response = node.invoke("under-policy", {"call": name, "bucket": bucket, "key": key, **more})
        assert not response.get("FunctionError"), payload
        return payload

    return make


def test_what_is_allowed(call):
    assert call("get") == {"value": "content"}
    assert call("head") == {"value": 7}
    assert call("list", key="in/") == {"value": ["in/k"]}
    assert "value" in call("put", bucket="outbox", key="fresh")
    assert "value" in call("copy", bucket="outbox", key="copied", source="inbox/in/k")


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("get", {"key": "k"}),
        ("get", {"bucket": "other"}),
        ("get", {"bucket": "outbox"}),
        ("put", {}),
        ("put", {"bucket": "other"}),
        ("list", {"key": ""}),
        ("copy", {"bucket": "outbox", "source": "inbox/k"}),
        ("copy", {"bucket": "outbox", "source": "other/k"}),
        ("tags", {}),
        ("buckets", {}),
    ],
)
def test_what_s3_denies(call, name, where):
    answer = call(name, **where)
    assert (answer["code"], answer["status"]) == ("AccessDenied", 403), answer
    assert "policy" in answer["message"]


def test_a_denied_head_has_no_body(call):
    answer = call("head", key="k")
    assert (answer["code"], answer["status"]) == ("403", 403)


@pytest.mark.parametrize(
    ("name", "code"),
    [("table", "AccessDeniedException"), ("publish", "AccessDenied"), ("invoke", "AccessDeniedException")],
)
def test_what_other_services_deny(call, name, code):
    answer = call(name)
    assert (answer["code"], answer["status"]) == (code, 403), answer
    assert "policy" in answer["message"]


def test_nothing_denied_was_done(node, call):
    call("put", key="in/never")
    call("copy", bucket="outbox", key="stolen", source="other/k")
    assert [o["Key"] for o in node.s3.list_objects_v2(Bucket="inbox")["Contents"]] == ["in/k", "k"]
    assert "stolen" not in {o["Key"] for o in node.s3.list_objects_v2(Bucket="outbox")["Contents"]}


def test_a_wrong_policy_is_refused_at_the_deployment(node, tmp_path):
    (tmp_path / "f.py").write_text("def handler(e, c): return 1\n")
    for policy, word in [
        ({"egress": ["example.com"]}, "has no port"),
        ({"services": ["s3"]}, "SERVICE:ACTION"),
        ({"buckets": [{"name": "a/b"}]}, "bucket"),
        ({"other": []}, "other"),
    ]:
        with pytest.raises(ServiceError, match=word):
            node.deploy("wrong-policy", tmp_path / "f.py", policy=policy)


def test_policy_files(tmp_path):
    (tmp_path / "p.toml").write_text('services = ["s3:*"]\n[[buckets]]\nname = "b"\n')
    (tmp_path / "p.json").write_text(json.dumps({"services": ["s3:*"], "buckets": [{"name": "b"}]}))
    assert read_policy(tmp_path / "p.toml") == read_policy(tmp_path / "p.json")
    for text, word in [
        ("[]", "no object"),
        ("{", "not JSON"),
        ('{"servces": []}', "servces"),
        ('{"egress": "x"}', "not a list"),
    ]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(NexusError, match=word):
            read_policy(tmp_path / "bad.json")
    with pytest.raises(NexusError, match="cannot be read"):
        read_policy(tmp_path / "missing.json")
