"""Requests that a function makes up itself meet its policy as those of the SDK do, by whatever way they leave."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from framework.node import TestNode

HANDLER = r'''
import datetime
import http.client
import urllib.parse

import boto3
import botocore.httpsession
from botocore.auth import S3SigV4PostAuth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

clients = {name: boto3.client(name) for name in ("s3", "sns", "dynamodb")}
credentials = boto3.Session().get_credentials()


def signed(e):
    """As an SDK sends it, signed by the host for the service that is named."""
    scope = f"{credentials.access_key}/us-east-1/{e['scope']}/aws4_request"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}", **e.get("headers", {})}
    url = clients[e.get("at", "s3")].meta.endpoint_url + e["target"]
    request = AWSRequest(method=e["method"], url=url, headers=headers, data=e.get("body", "").encode()).prepare()
    answer = botocore.httpsession.URLLib3Session().send(request)
    return answer.status_code, answer.content.decode()


def web(e):
    """By a web client, unsigned or presigned."""
    url = clients[e.get("at", "s3")].meta.endpoint_url + e["target"]
    if "scope" in e:
        request = AWSRequest(method=e["method"], url=url)
        S3SigV4QueryAuth(credentials, e["scope"], "us-east-1", expires=60).add_auth(request)
        url = request.url
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    body = e.get("body", "").encode() or None
    connection.request(e["method"], f"{parts.path}?{parts.query}", body, e.get("headers", {}))
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def form(e):
    """The fields of a form for S3's POST with these conditions."""
    url = clients["s3"].meta.endpoint_url
    request = AWSRequest(method="POST", url=url + e["target"])
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    policy = {"expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": e["conditions"]}
    request.context |= {"s3-presign-post-fields": {}, "s3-presign-post-policy": policy}
    S3SigV4PostAuth(credentials, "s3", "us-east-1").add_auth(request)
    return 200, request.context["s3-presign-post-fields"]


def sdk(e):
    return getattr(clients[e["at"]], e["call"])(**e["parameters"])["ResponseMetadata"]["HTTPStatusCode"], ""


def handler(event, context):
    try:
        return {"signed": signed, "web": web, "form": form, "sdk": sdk}[event["way"]](event)
    except Exception as error:
        return 0, repr(error)
'''


class Service:
    """Takes whatever comes, as an emulator does that checks no signatures."""

    def __init__(self) -> None:
        seen: list[tuple[str | None, bytes]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.headers.get("X-Amz-Target"), body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.seen = seen
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture(scope="module")
def here(node: TestNode, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNode]:
    """A node with endpoints of its own."""
    endpoints = (("sns", service.url), ("dynamodb", service.url + "/"))
    own = TestNode.start(tmp_path_factory.mktemp("node"), node.isolation, endpoints=endpoints)
    try:
        for bucket in ("allowed", "denied"):
            own.s3.create_bucket(Bucket=bucket)
            for key in ("pub/k", "secret"):
                own.s3.put_object(Bucket=bucket, Key=key, Body=f"{bucket}/{key}".encode())
        yield own
    finally:
        own.close()


@pytest.fixture(scope="module")
def ask(here: TestNode, tmp_path_factory: pytest.TempPathFactory):
    """Send something from a function under a policy: the status (0: it was not even sent) and the answer."""
    folder = tmp_path_factory.mktemp("function")
    (folder / "makes_up.py").write_text(HANDLER)
    policies: dict[str, dict[str, Any]] = {
        "prefix": {"buckets": [{"name": "allowed", "prefix": "pub/"}]},
        "bucket": {"buckets": [{"name": "allowed"}]},
        "topics": {"services": ["sns:ListTopics", "s3:GetObject"], "egress": []},
        "writes": {"services": ["s3:PutObject", "s3:AbortMultipartUpload"]},
    }
    for name, policy in policies.items():
        here.deploy(name, folder / "makes_up.py", timeout_s=30, policy=policy)

    def send(name: str, way: str, **event: Any) -> tuple[int, Any]:
        answer, response = here.invoke(name, {"way": way, **event})
        assert not response.get("FunctionError"), answer
        return answer[0], answer[1]

    return send


def test_a_service_that_is_elsewhere_is_not_signed_for(ask) -> None:
    free = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert ask("prefix", "signed", method="GET", target="/allowed/pub/k", scope="s3")[0] == 200
    for method, target in [("GET", "/denied/secret"), ("GET", "/"), ("PUT", "/denied/written")]:
        for scope in ("s3", "sts", "sns"):
            status, text = ask("prefix", "signed", method=method, target=target, scope=scope, headers=free)
            assert status in {0, 403}, text
    status, text = ask("prefix", "web", method="GET", target="/denied/secret", scope="sts")
    assert status in {0, 403}, text


def _post(url: str, fields: dict[str, str]) -> int:
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    body = "".join(part.format(*field) for field in fields.items()) + part.format('file"; filename="f', "content") + "--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=30) as answer:
        return answer.status


def test_a_form_is_for_the_bucket_that_it_was_asked_for(ask, here) -> None:
    key = ["starts-with", "$key", "pub/"]
    for conditions, expected in [
        ([{"bucket": "allowed"}, key], 200),
        ([{"bucket": "denied"}, key], 0),
        ([key], 0),
        ([{"bucket": "allowed"}], 0),
        ([{"bucket": "allowed"}, ["starts-with", "$key", ""]], 0),
    ]:
        status, fields = ask("prefix", "form", target="/allowed", conditions=conditions)
        assert status == expected, (conditions, fields)
        if status:
            assert _post(f"{here.store_endpoint}/allowed", {**fields, "key": "pub/form"}) in {200, 204}


def test_a_presigned_url_does_no_more_than_was_signed(ask, here) -> None:
    copy = {"x-amz-copy-source": "denied/secret"}
    status, text = ask("bucket", "web", method="PUT", target="/allowed/stolen", scope="s3", headers=copy)
    assert (status, "AccessDenied" in text) == (403, True), text
    # Nor what the policy allows.
    copy = {"x-amz-copy-source": "allowed/secret"}
    status, text = ask("bucket", "web", method="PUT", target="/allowed/stolen", scope="s3", headers=copy)
    assert (status, "not signed" in text) == (403, True), text
    assert ask("bucket", "web", method="PUT", target="/allowed/own", scope="s3", body="x")[0] == 200
    assert "stolen" not in {o["Key"] for o in here.s3.list_objects_v2(Bucket="allowed")["Contents"]}


def test_web_clients_are_judged_at_an_endpoint(ask, service) -> None:
    before = len(service.seen)
    target = {"X-Amz-Target": "DynamoDB_20120810.DeleteTable", "Content-Type": "application/x-amz-json-1.0"}
    scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0"
    for headers in (target, {**target, "Authorization": scope}):
        status, text = ask("topics", "web", at="dynamodb", method="POST", target="/", body="{}", headers=headers)
        assert (status, "policy of this function" in text) == (403, True), text
    status, text = ask("topics", "sdk", at="dynamodb", call="delete_table", parameters={"TableName": "t"})
    assert status == 0
    assert "AccessDenied" in text
    assert len(service.seen) == before


def test_a_request_that_tells_two_actions_is_none(ask, here, service) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    topics = {"method": "POST", "target": "/", "at": "sns", "scope": "sns"}
    assert ask("topics", "signed", **topics, body="Action=ListTopics&Version=2010-03-31", headers=form)[0] == 200
    before = len(service.seen)
    headers = {**form, "X-Amz-Target": "x.ListTopics"}
    assert ask("topics", "signed", **topics, body="Action=Publish&Message=m", headers=headers)[0] == 403
    assert len(service.seen) == before
    tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>"
    for method in ("PUT", "DELETE"):
        target = "/allowed/pub/k?tagging=&uploadId=x"
        assert ask("writes", "signed", method=method, target=target, scope="s3", body=tags)[0] == 403
    assert here.s3.get_object_tagging(Bucket="allowed", Key="pub/k")["TagSet"] == []
