"""The native module and its twins in Python do the same; what is not ordinary is left to Python."""

import io
import json
import os
import struct
import subprocess
import sys

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nexus.guest import abi
from nexus.guest.device import Channel, DeviceUnavailableError, call
from nexus.guest.device.native import SWITCH, native
from nexus.guest.device.rehearsal import RehearsalTransport
from nexus.guest.shims.boto3_api.api import body as bodies
from nexus.guest.shims.boto3_api.api.operations import OPERATIONS
from nexus.guest.shims.boto3_api.api.request import RequestPlan
from nexus.guest.shims.boto3_api.api.response import ResponsePlan

CLIENT = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
MODELS = {name: CLIENT.meta.service_model.operation_model(name) for name in OPERATIONS}
REQUESTS = {name: RequestPlan(model) for name, model in MODELS.items()}
RESPONSES = {name: ResponsePlan(model) for name, model in MODELS.items()}

TEXT = st.text(max_size=8) | st.sampled_from(
    ["a/b.c", "x y", " x", "x ", "é", '"\\', "\x00\x1f\x7f", "..", "a/./b", "\ud800", ""]
)
VALUE = TEXT | st.integers() | st.booleans() | st.none() | st.lists(TEXT, max_size=2) | st.binary(max_size=4)


@st.composite
def calls(draw):
    name = draw(st.sampled_from(sorted(OPERATIONS)))
    shape = MODELS[name].input_shape
    members = list(shape.members) if shape is not None else []
    params = {"Bucket": draw(st.sampled_from(["bucket", "bucket", "Bucket", "a..b"])), "Key": draw(TEXT)}
    params = {key: value for key, value in params.items() if key in members}
    for member in draw(st.lists(st.sampled_from([*members, "Unknown"]), max_size=4, unique=True)):
        kind = shape.members[member].type_name if member in members else ""
        right = {"integer": st.integers(), "long": st.integers(), "boolean": st.booleans(), "string": TEXT}
        params.setdefault(member, draw(right.get(kind, VALUE) | VALUE))
    return name, params, draw(st.none() | st.just("http://127.0.0.1:9")), draw(st.booleans())


@given(calls())
@example(("GetObject", {"Bucket": "bucket", "Key": "a/b.jpg", "Range": "bytes=0-9", "VersionId": "v"}, None, True))
@example(("ListObjectsV2", {"Bucket": "bucket", "Prefix": "é/", "MaxKeys": 10}, None, True))
def test_a_request_is_the_same_by_both(drawn):
    name, params, endpoint, validates = drawn
    plan = REQUESTS[name]
    head = plan.head(params, "eu-west-1", endpoint, validates=validates)
    if head is not None:
        request = plan.build(CLIENT, params, "eu-west-1", endpoint, validates=validates)
        assert request.length is None
        assert not request.document
        assert bytes(head) == request.head
        assert len(head) == len(request.head)


def test_ordinary_requests_are_native():
    for name, params in {
        "GetObject": {"Bucket": "known", "Key": "photos/a.jpg", "Range": "bytes=0-1", "PartNumber": 1},
        "PutObject": {"Bucket": "known", "Key": "k", "Body": b"", "ContentType": "text/plain", "StorageClass": "STANDARD"},
        "HeadObject": {"Bucket": "known", "Key": "k"},
        "ListObjectsV2": {"Bucket": "known", "Prefix": "p", "FetchOwner": True},
    }.items():
        plan = REQUESTS[name]
        plan.build(CLIENT, params, "r", None, validates=True)  # the first one finds out whether the bucket's name is right
        assert json.loads(bytes(plan.head(params, "r", None, validates=True)))["bucket"] == "known"
        assert plan.head({**params, "Bucket": "never-seen"}, "r", None, validates=True) is None
        assert plan.head({**params, "Metadata": {}, "CopySource": "x"}, "r", None, validates=True) is None
        assert plan.head({}, "r", None, validates=True) is None


HEADER = st.sampled_from(
    [
        *(name for plan in RESPONSES.values() for name, *_ in plan._members),
        "x-amz-meta-a",
        "X-Amz-Meta-B",
        "x-amz-request-id",
        "x-amz-id-2",
        "x-amzn-requestid",
        "expires",
        "Date",
        "İ",
    ]
)
HEADER_VALUE = st.sampled_from(["true", "False", "-7", "0012", "+1", "1_0", "", "9" * 30, '"e"']) | st.sampled_from(
    [
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Xyz, 31 Dec 9999 23:59:59 GMT",
        "Thu, 31 Feb 2024 00:00:00 GMT",
        "Thursday",
        "1970-01-01T00:00:00Z",
    ]
)


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.sampled_from([200, 204, 304, 404]),
    st.lists(st.tuples(HEADER, HEADER_VALUE), max_size=8),
)
@example("GetObject", 200, [("last-modified", "9" * 30)])
@example("GetObject", 200, [("ETag", '"e"'), ("x-amz-meta-a", "1"), ("Content-Length", "3"), ("x-amz-meta-a", "2")])
def test_an_answer_is_the_same_by_both(name, status, headers):
    plan = ResponsePlan(MODELS[name])
    head = json.dumps({"status": status, "headers": headers, "retries": 2}, ensure_ascii=False)
    outcomes = []
    for how in (plan.native, None):
        plan.native = how
        try:
            got = plan.read(head)
        except (ValueError, RuntimeError) as error:  # what no parser takes is told in the same words
            outcomes.append(repr(error))
        else:
            # As text: the order counts too.
            outcomes.append((got[0], repr(got[1].lowered), got[1].as_sent, got[2], repr(got[3])))
    assert outcomes[0] == outcomes[1]


def test_ordinary_answers_are_native():
    headers = [
        ["ETag", '"e"'],
        ["Content-Length", "3"],
        ["Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"],
        ["x-amz-meta-Ab", "c"],
    ]
    status, lowered, retries, result = RESPONSES["GetObject"].native.read(
        json.dumps({"status": 200, "headers": headers, "retries": 0})
    )
    assert (status, retries, lowered["content-length"]) == (200, 0, "3")
    assert (result["ContentLength"], result["LastModified"].year, result["Metadata"]) == (3, 1970, {"Ab": "c"})
    for odd in (
        "",
        "{",
        "[]",
        '{"status": 1e9, "headers": [], "retries": 0}',
        '{"status": 200, "headers": [["a"]], "retries": 0}',
    ):
        assert RESPONSES["GetObject"].native.read(odd) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("head_offset", 0),
        ("head_offset", 0xFFFFFFFF),
        ("head_length", 1 << 30),
        ("body_offset", 1 << 20),
        ("body_length", 0xFFFFFFFF),
    ],
)
def test_a_reply_outside_its_room_is_refused(field, value):
    class Lying(RehearsalTransport):
        def ring(self):
            super().ring()
            at = abi.COMPLETE_RING + (self._taken - 1) % abi.RING_ENTRIES * abi.ENTRY_SIZE
            struct.pack_into("<I", self.arena, at + getattr(abi, f"COMPLETION_{field.upper()}"), value)

    channel = Channel(Lying(lambda operation, head: (0, b"{}", b"body")))
    assert channel._line is not None
    with pytest.raises(DeviceUnavailableError, match="outside its room"):
        call(channel, abi.S3, b"{}", room_max=1 << 14)


def test_what_is_not_the_call_that_waits_is_left():
    channel = Channel(RehearsalTransport(lambda operation, head: (0, b"{}", b"")))
    line, start, held = channel._line, abi.HEAP, 1 << 16
    assert line.take(1, start, start + held, 100) is None
    assert line.submit(1, abi.S3, start, held, 64, 1 << 14, b"{}", b"") == 64
    assert line.submit(2, abi.S3, start, 128, 64, 1 << 14, b"{}", bytes(64)) == 0  # no room left
    assert line.submit(2, abi.S3, start, held, 64, 1 << 14, b"", b"") == 0
    for bad in (0, abi.HEAP - 64, abi.DEFAULT_SIZE, (1 << 64) - 64):
        with pytest.raises(ValueError, match="bytes of heap"):
            line.submit(2, abi.S3, bad, held, 64, 1 << 14, b"{}", b"")
    channel._transport.ring()
    assert line.take(2, start, start + held, 100) is None
    assert line.take(1, start + 128, start + held, 100) is None
    assert line.take(1, start, start + held, 100)[:3] == (0, 0, "{}")
    assert line.take(1, start, start + held, 100) is None


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_body_that_was_copied_is_like_one_in_the_arena(size):
    data = bytes(range(250)) * (size // 250)
    channel = Channel(RehearsalTransport(lambda operation, head: (0, b"{}", data)))

    def body():
        reply = call(channel, abi.S3, b"{}", room_max=1 << 18)
        return bodies.incoming(channel, reply, {"content-length": str(size)}, verify=True)[0]

    assert type(body()._raw_stream) is (bodies.CopiedStream if size < 65536 else bodies.ArenaStream)
    assert body().read() == b"".join(body()._raw_stream.stream(300)) == bytes(body().getbuffer()) == data
    one = body()
    raw = one._raw_stream
    assert (raw.readable(), raw.seekable(), raw.writable(), raw.closed) == (True, False, False, False)
    assert (one.read(7), one.tell(), raw.tell()) == (data[:7], 7, 7)
    for wrong in (lambda: raw.seek(0), lambda: raw.truncate(0)):
        with pytest.raises(io.UnsupportedOperation):
            wrong()
    assert one.getbuffer().readonly
    assert raw.read() == b""
    two = body()
    two.close()
    assert two._raw_stream.closed
    assert two._raw_stream.read() == b""
    with body() as three:
        assert three.read(3) == data[:3]
    assert three.closed


def test_no_arena_no_line():
    for buffer in (b"", bytearray(100), bytes(1 << 20)):
        with pytest.raises(ValueError, match="not an arena"):
            native.Line(buffer)


def test_calls_work_without_it():
    program = f"""
import sys, os
os.environ[{SWITCH!r}] = "0"
from nexus.guest import abi
from nexus.guest.device import Channel, call
from nexus.guest.device.native import native
from nexus.guest.device.rehearsal import RehearsalTransport
assert native is None
channel = Channel(RehearsalTransport(lambda operation, head: (0, b"head", b"body")))
reply = call(channel, abi.S3, b"x", b"y", room_max=1 << 14)
print(reply.head, bytes(reply.body))
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "head b'body'\n"
