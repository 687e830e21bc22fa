"""The native module and its twins in Python do the same; what is not ordinary is left to Python."""

import errno
import gc
import io
import json
import os
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nexus.guest import abi
from nexus.guest.device import Channel, DeviceUnavailableError, Reply, call
from nexus.guest.device.native import SWITCH, native
from nexus.guest.device.rehearsal import RehearsalTransport
from nexus.guest.shims.boto3_api.api import FastPath
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


# -- whole calls ---------------------------------------------------------------------------------------------------------------


class Twins:
    """One client's operations by the native module and by its twins, each over a channel of its own, against the same answers."""

    def __init__(self, transport=RehearsalTransport):
        self.answer = (200, [], b"")
        self.client = boto3.client(
            "s3",
            region_name="us-east-1",
            aws_access_key_id=abi.PLACEHOLDER_KEY_ID,
            aws_secret_access_key=abi.PLACEHOLDER_SECRET,
        )
        self.sent = []
        self.fast = [FastPath(Channel(transport(self._answer)), self.client, self._original) for _ in range(2)]
        twin = self.fast[1]
        twin._quick = twin._channel._line = None
        for plan in (*twin._requests.values(), *twin._responses.values()):
            plan.native = None
        self.native, self.python = (fast.method() for fast in self.fast)
        # The first call of a client, with a bucket, and on a channel, is an ordinary one.
        for method in (self.native, self.python):
            self.answer = (200, [], b"")
            method(self.client, "ListObjectsV2", {"Bucket": "bucket"})
            self.answer = (200, [], b"x")
            method(self.client, "GetObject", {"Bucket": "bucket", "Key": "k"})
        self.sent.clear()

    def _answer(self, operation, head):
        status, headers, body = self.answer
        self.sent.append(bytes(head))
        if isinstance(status, str):  # a failure of the backend's
            return abi.STATUS_TRANSPORT, json.dumps({"error": status, "message": "m", "endpoint": "http://e"}).encode(), b""
        return 0, json.dumps({"status": status, "headers": headers, "retries": 1}, ensure_ascii=False).encode(), body

    def _original(self, client, name, params):
        return "botocore's own"

    def outcome(self, call, name, params):
        try:
            result = call(self.client, name, dict(params))
        except Exception as error:
            return type(error), str(error), repr(getattr(error, "response", None))
        if isinstance(result, dict) and "Body" in result:
            body = result["Body"]
            read = type(body), list(vars(body)), type(body._raw_stream), body.read(1), body.read(), body.read()
            result["Body"] = read
        return repr(result)


TWINS = Twins()


@given(
    calls(),
    st.sampled_from([200, 200, 206, 404, "ConnectTimeoutError"]),
    st.lists(st.tuples(HEADER, HEADER_VALUE), max_size=6),
    st.binary(max_size=3) | st.just(bytes(70_000)),
)
@example(("GetObject", {"Bucket": "bucket", "Key": "k"}, None, True), 200, [("x-amz-checksum-crc32", "AAAA")], b"abc")
@example(("GetObject", {"Bucket": "bucket", "Key": "k"}, None, True), 200, [("x-amz-checksum-crc32", "AAAA-1")], b"abc")
def test_a_call_is_the_same_by_both(drawn, status, headers, body):
    name, params, _, _ = drawn
    if name != "GetObject":
        body = body[:3]
    headers = [(wire, value) for wire, value in headers if wire != "content-length"]
    TWINS.answer = (status, [*headers, ("content-length", str(len(body)))], body)
    TWINS.sent.clear()
    assert TWINS.outcome(TWINS.native, name, params) == TWINS.outcome(TWINS.python, name, params)
    half = len(TWINS.sent) // 2
    assert TWINS.sent[:half] == TWINS.sent[half:]
    first, second = (fast._channel for fast in TWINS.fast)
    assert first.heap_free == second.heap_free
    assert not first._tickets
    assert not first.seat.leader


def test_ordinary_calls_are_native_to_their_end():
    twins = Twins()
    twins.fast[0].call = None
    twins.fast[0]._channel.conclude = None
    method = twins.fast[0].method()
    for body in (b"abc", bytes(30_000)):
        twins.answer = (200, [("content-length", str(len(body)))], body)
        assert method(twins.client, "GetObject", {"Bucket": "bucket", "Key": "k"})["Body"].read() == body
        twins.answer = (200, [("etag", "e")], b"")
        params = {"Bucket": "bucket", "Key": "k", "Body": body[:20_000], "ContentType": "text/plain"}
        assert method(twins.client, "PutObject", params)["ETag"] == "e"
    assert len(twins.sent) == 4


def test_what_a_call_does_not_know_is_left():
    twins = Twins()
    seen = []
    twins.fast[0].call = lambda *arguments: seen.append(arguments[1:])
    method = twins.fast[0].method()
    get = {"Bucket": "bucket", "Key": "k"}
    odd = [
        ("GetBucketAcl", {"Bucket": "bucket"}),
        ("GetObject", ()),
        ("PutObject", {**get, "Body": "text"}),
        ("PutObject", {**get, "Body": bytes(65537)}),
    ]
    for name, params in odd:
        assert method(twins.client, name, params) is None
    twins.client.meta.events.register("before-send.s3", lambda **_: None)
    method(twins.client, "GetObject", get)
    assert [name for name, _ in seen] == [*(name for name, _ in odd), "GetObject"]
    assert not twins.sent


def test_a_call_that_is_interrupted_leaves_the_channel_to_others():
    class Interrupted(RehearsalTransport):
        broken = False

        def ring_and_wait(self):
            super().ring_and_wait()
            if self.broken:
                raise KeyboardInterrupt

    twins = Twins(Interrupted)
    channel = twins.fast[0]._channel
    free = channel.heap_free
    twins.answer = (200, [("content-length", "1")], b"x")
    get = {"Bucket": "bucket", "Key": "k"}
    channel._transport.broken = True
    with pytest.raises(KeyboardInterrupt):
        twins.native(twins.client, "GetObject", get)
    channel._transport.broken = False
    assert not channel.seat.leader
    assert twins.native(twins.client, "GetObject", get)["Body"].read() == b"x"
    assert not channel._tickets
    assert channel.heap_free == free


@pytest.mark.parametrize("way", ["native", "python"])
def test_a_signal_behind_the_wait_leaves_the_lead_to_others(way):
    twins = Twins()
    fast = twins.fast[0]
    channel = fast._channel
    if way == "python":
        fast._quick = None
    method = fast.method()
    free = channel.heap_free
    # More than is copied out at once.
    twins.answer = (200, [("content-length", "100000")], bytes(100_000))
    get = {"Bucket": "bucket", "Key": "k"}

    def conclude(*arguments):
        raise KeyboardInterrupt

    channel.conclude = conclude
    with pytest.raises(KeyboardInterrupt):
        method(twins.client, "GetObject", get)
    del channel.conclude
    assert not channel.seat.leader
    twins.answer = (200, [("content-length", "1")], b"x")
    assert method(twins.client, "GetObject", get)["Body"].read() == b"x"
    assert not channel._tickets
    assert channel.heap_free == free


def test_a_call_that_others_came_in_between_is_theirs_to_complete():
    class Watched(RehearsalTransport):
        between = None

        def ring_and_wait(self):
            super().ring_and_wait()
            if self.between:
                between, self.between = self.between, None
                between()

    twins = Twins(Watched)
    channel = twins.fast[0]._channel
    twins.answer = (200, [("content-length", "1")], b"x")
    get = {"Bucket": "bucket", "Key": "k"}

    def between():
        assert channel._tickets
        assert twins.native(twins.client, "GetObject", get)["Body"].read() == b"x"  # takes what came for the other, too

    channel._transport.between = between
    assert twins.native(twins.client, "GetObject", get)["Body"].read() == b"x"
    assert channel._transport.between is None
    assert not channel._tickets
    assert not channel.seat.leader


def test_a_device_that_fails_says_so():
    class Broken(RehearsalTransport):
        device = os.open(os.devnull, os.O_RDWR)

    twins = Twins(Broken)
    with pytest.raises(OSError, match="ioctl") as failed:
        twins.native(twins.client, "GetObject", {"Bucket": "bucket", "Key": "k"})
    assert failed.value.errno == errno.ENOTTY
    assert not twins.fast[0]._channel.seat.leader
    os.close(Broken.device)


def test_a_client_in_a_process_made_by_fork_is_told():
    twins = Twins()
    twins.fast[0]._channel.disown()
    with pytest.raises(DeviceUnavailableError, match="made by fork"):
        twins.native(twins.client, "GetObject", {"Bucket": "bucket", "Key": "k"})


def test_a_channel_ends_with_its_last_user():
    twins = Twins()
    channel = weakref.ref(twins.fast[0]._channel)
    twins.fast.clear()
    twins.native = None
    assert channel() is None


def test_handlers_that_raise_anywhere_leave_nothing_behind():
    """Time-outs by SIGALRM, at random moments of calls: no lock, lead, ticket or heap is lost, and no body is wrong."""
    folder = Path(__file__).parent
    path = os.pathsep.join(filter(None, [str(folder), *sys.path]))
    command = [sys.executable, str(folder / "alarms.py"), "3", "0.002"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert min(left.pop("done"), left.pop("alarms")) > 50
    assert left == {"wrong": 0, "left": 0, "tickets": 0, "leader": 0}


def test_a_finalizer_that_calls_does_not_wait_for_its_own_thread():
    """The collector runs where objects are made, in the middle of a call too."""
    channel = Channel(RehearsalTransport(lambda operation, head: (0, b"{}", b"x" * 100)))
    calls = []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            calls.append(call(channel, abi.S3, b"{}", room_max=1 << 14).data)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Cycle()
            assert call(channel, abi.S3, b"{}", room_max=1 << 14).data == b"x" * 100
            _, ticket = channel.submit(abi.S3, b"{}", room_max=1 << 14, silent=True)
            assert Reply(channel, ticket).data == b"x" * 100
    finally:
        gc.set_threshold(*threshold)
    assert len(calls) > 100
    assert set(calls) == {b"x" * 100}
    assert gc.isenabled()
