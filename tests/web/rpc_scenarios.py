"""One handler of gRPC calls, run with grpcio's core on the host and over the backend in an instance; see test_rpc.py."""

import contextlib
import os
import re
import threading
import time

import grpc
from google.protobuf import struct_pb2

SERVICE = "/test.Service/"
_VOLATILE = re.compile(r"127\.0\.0\.1:\d+|localhost:\d+|0x[0-9a-f]+|, peer: [^\]]*|\[::1\]:\d+|:\d{4,5}")


def text(value):
    return None if value is None else _VOLATILE.sub("<>", str(value))


def pairs(metadata):
    return None if metadata is None else [[k, v.hex() if isinstance(v, bytes) else v] for k, v in metadata]


def describe(value):
    if isinstance(value, grpc.RpcError):
        names = [base.__name__ for base in type(value).__mro__]
        facts = [
            names,
            str(value.code()),
            text(value.details()),
            pairs(value.initial_metadata()),
            pairs(value.trailing_metadata()),
        ]
        return {"raised": facts}
    if isinstance(value, BaseException):
        return {"raised": [type(value).__name__, text(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": len(value), "start": bytes(value[:60]).decode("latin-1")}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return text(value)


class Steps:
    def __init__(self, event):
        self.log = []
        self.plain = f"127.0.0.1:{event['ports']['plain']}"
        self.secure = f"localhost:{event['ports']['secure']}"
        self.refused = f"127.0.0.1:{event['ports']['refused']}"
        self.authority = event["authority"].encode()
        self.channel = grpc.insecure_channel(self.plain)

    def __call__(self, name, call, *args, **kwargs):
        if "STEPS" in os.environ:
            print(name, time.monotonic(), flush=True)
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            self.log.append([name, describe(error)])
            return None
        self.log.append([name, describe(value)])
        return value

    def unary(self, name, channel=None):
        return (channel or self.channel).unary_unary(SERVICE + name)


def unary(step):
    echo = step.unary("echo")
    step("echo", echo, b"hello")
    step("empty", echo, b"")

    def with_call():
        answer, call = echo.with_call(b"x", metadata=(("a", "b"), ("c-bin", b"\x00\x01")))
        return [answer, str(call.code()), call.details(), pairs(call.initial_metadata()), pairs(call.trailing_metadata())]

    step("with call", with_call)
    sent = (("key", "value"), ("key", "again"), ("bin-bin", b"\x00\xfe\xff"))
    step("metadata", step.unary("metadata"), b"", metadata=sent)
    step("bad metadata", step.unary("metadata"), b"", metadata=(("Upper", "x"),))
    for code in ("NOT_FOUND", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "UNAVAILABLE"):
        step(code, step.unary("fails"), code.encode())
    step("raises", step.unary("raises"), b"")
    step("missing", step.unary("missing"), b"")
    step("deadline", step.unary("slow"), b"5", timeout=0.3)
    step("deadline told", step.unary("deadline"), b"", timeout=20)
    step("no deadline", step.unary("deadline"), b"")
    step("large answer", step.unary("size"), b"3000000")
    step("too large", step.unary("size"), b"5000000")
    step("large request", step.unary("length"), bytes(3 << 20))
    step("compressed", lambda: step.unary("packed")(b"a" * 100000, compression=grpc.Compression.Gzip))
    step("deflated", lambda: step.unary("length")(b"a" * 100000, compression=grpc.Compression.Deflate))
    call = step.channel.unary_unary(
        SERVICE + "struct",
        request_serializer=struct_pb2.Struct.SerializeToString,
        response_deserializer=struct_pb2.Struct.FromString,
    )
    message = struct_pb2.Struct()
    message.update({"a": 1, "b": "two"})
    step("message", lambda: sorted(call(message)["got"].items()))
    step("cannot serialise", lambda: call(5))
    step("refused", step.unary("echo", grpc.insecure_channel(step.refused)), b"x", timeout=10)
    step(
        "wait for ready",
        lambda: step.unary("echo", grpc.insecure_channel(step.refused))(b"x", timeout=0.5, wait_for_ready=True),
    )
    step("name", step.unary("echo", grpc.insecure_channel("no-such-host.invalid:1")), b"x", timeout=10)
    closed = grpc.insecure_channel(step.plain)
    closed.close()
    step("closed", lambda: step.unary("echo", closed)(b"x"))


def future(step):
    echo = step.unary("echo")

    def several():
        calls = [echo.future(b"%d" % number) for number in range(10)]
        return [call.result(20) for call in calls]

    step("several", several)
    done = threading.Event()
    call = echo.future(b"x")
    call.add_done_callback(lambda _: done.set())
    step("callback", lambda: [done.wait(20), call.done(), call.cancelled(), str(call.code()), call.result()])
    failing = step.unary("fails").future(b"ABORTED")
    step("failing", failing.result)
    step("its exception", lambda: failing.exception())
    slow = step.unary("slow").future(b"5")
    step("not yet", slow.result, 0.2)
    step("cancel", lambda: [slow.cancel(), slow.cancelled(), str(slow.code()), slow.details()])
    step("cancelled", slow.result)


def streams(step):
    count = step.channel.unary_stream(SERVICE + "count")
    step("count", lambda: list(count(b"5")))
    step("none", lambda: list(count(b"0")))
    step("many", lambda: len(list(count(b"300"))))

    def facts():
        call = count(b"3")
        first = next(call)
        initial = call.initial_metadata()
        rest = list(call)
        return [first, rest, pairs(initial), pairs(call.trailing_metadata()), str(call.code()), call.details()]

    step("facts", facts)

    def broken():
        got = []
        try:
            got.extend(step.channel.unary_stream(SERVICE + "breaks")(b""))
        finally:
            step.log.append(["before breaking", describe(got)])

    step("breaks", broken)

    def stopped():
        call = step.channel.unary_stream(SERVICE + "forever")(b"")
        got = [next(call), next(call)]
        call.cancel()
        try:
            while True:
                next(call)
        except grpc.RpcError as error:
            return [got, str(error.code()), error.details(), error.cancelled()]

    step("cancelled", stopped)

    def late():
        """What the core says of a deadline amid messages depends on which of its own parts finds out first."""
        try:
            list(step.channel.unary_stream(SERVICE + "forever")(b"", timeout=0.3))
        except grpc.RpcError as error:
            either = error.details() in {"Deadline Exceeded", "Stream removed (Deadline Exceeded)"}
            return str(error.code()), "one of two" if either else error.details()

    step("deadline", late)

    def late_and_slow():
        for _ in step.channel.unary_stream(SERVICE + "forever")(b"", timeout=0.3):
            time.sleep(0.05)

    step("deadline, while reading slowly", late_and_slow)
    step("large", lambda: sum(len(answer) for answer in step.channel.unary_stream(SERVICE + "large")(b"12")))
    total = step.channel.stream_unary(SERVICE + "total")
    step("total", lambda: total(iter([b"a", b"bb", b"ccc"])))
    step("total of none", lambda: total(iter([])))
    step("total of large", lambda: total(bytes(1 << 20) for _ in range(8)))
    step("total with call", lambda: total.with_call(iter([b"x"]))[0])
    step("future of total", lambda: total.future(iter([b"x", b"y"])).result(20))
    step("answered early", lambda: step.channel.stream_unary(SERVICE + "first")(iter([b"one", b"two"])))

    def failing():
        yield b"one"
        raise RuntimeError("in the iterator")

    step("iterator fails", lambda: total(failing()))
    chat = step.channel.stream_stream(SERVICE + "chat")
    step("chat", lambda: list(chat(iter([b"a", b"b"]))))
    step("chat of many", lambda: len(list(chat(b"%d" % number for number in range(100)))))

    def dialogue():
        turns = []
        ready = threading.Semaphore(1)

        def asking():
            for number in range(5):
                ready.acquire()
                yield b"%d" % number

        for answer in chat(asking()):
            turns.append(answer)
            ready.release()
        return turns

    step("dialogue", dialogue)
    single = grpc.insecure_channel(step.plain, options=[("SingleThreadedUnaryStream", 1)])
    step("one thread", lambda: list(single.unary_stream(SERVICE + "count")(b"3")))


def limits(step):
    """What bounds calls: deadlines while nobody reads, sizes, types, a channel's end; large messages both ways."""
    chat, count = step.channel.stream_stream(SERVICE + "chat"), step.channel.unary_stream(SERVICE + "count")
    step("large chat", lambda: sum(len(answer) for answer in chat(bytes(1 << 20) for _ in range(20))))

    def several():
        results = []
        work = [
            threading.Thread(target=lambda: results.append(len(list(chat(bytes(300_000) for _ in range(20))))))
            for _ in range(4)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(30)
        return results

    step("large chats", several)

    def unread():
        call = count(b"300", timeout=0.5)
        first = next(call)
        time.sleep(1)
        return first, call.is_active(), str(call.code())

    step("deadline while nobody reads", unread)
    step("two answers to a unary call", step.unary("count"), b"2", timeout=0.5)
    step("two answers to a future", lambda: str(step.unary("count").future(b"2", timeout=0.5).exception(20).code()))
    step("a stream to a unary call", lambda: step.channel.stream_unary(SERVICE + "chat")(iter([b"a", b"b"]), timeout=0.5))
    small = grpc.insecure_channel(step.plain, options=[("grpc.max_send_message_length", 100)])
    step("as large as may be sent", step.unary("length", small), b"x" * 100)
    step("too large to send", step.unary("length", small), b"x" * 101)
    step("too large to stream", lambda: small.stream_unary(SERVICE + "total")(iter([b"x", b"x" * 101])))
    for value in (5, None, "text", b"bytes", ["list"]):
        step(f"metadata {value!r}", step.unary("metadata"), b"", metadata=(("k", value),))
        step(f"binary metadata {value!r}", step.unary("metadata"), b"", metadata=(("k-bin", value),))
    token = grpc.access_token_call_credentials("secret")
    step("call credentials without TLS", lambda: step.unary("metadata")(b"", credentials=token))
    port = step.plain.rpartition(":")[2]
    for target in (f"dns:localhost:{port}", f"dns:///localhost:{port}", f"ipv4:127.0.0.1:{port}"):
        with grpc.insecure_channel(target) as channel:
            step(f"target {target[:7]}", step.unary("echo", channel), b"x", timeout=20)

    def closing(call):
        channel = grpc.insecure_channel(step.plain)
        threading.Timer(0.3, channel.close).start()
        return call(channel)

    step("closed meanwhile", closing, lambda channel: step.unary("slow", channel)(b"3"))
    step("closed amid a future", closing, lambda channel: step.unary("slow", channel).future(b"3").result(20))
    step("closed amid a stream", closing, lambda channel: list(channel.unary_stream(SERVICE + "forever")(b"")))

    def connectivity():
        seen = []
        with grpc.insecure_channel(step.plain) as channel:
            channel.subscribe(lambda state: seen.append(state.name))
            step.unary("echo", channel)(b"x")
            time.sleep(1)
        return seen[0], "READY" in seen

    step("connectivity", connectivity)


def generated(step):
    """Stubs and messages as they are generated, from notes.proto."""
    import notes_pb2
    import notes_pb2_grpc

    stub = notes_pb2_grpc.NotesStub(step.channel)

    def show(note):
        return [type(note).__name__, note.SerializeToString(deterministic=True).hex(), str(note)]

    note = notes_pb2.Note(text="h\u00e9llo", number=-5, kind=notes_pb2.URGENT, tags=["a", "b"], weights={"x": 0.5}, content=b"")
    note.next.text = "inner"
    step("echo", lambda: show(stub.Echo(note)))
    step("left out", lambda: show(stub.Echo(notes_pb2.Note())))
    step("missing", lambda: show(stub.Missing(note)))
    step("wrong type", lambda: stub.Echo(notes_pb2.Query(prefix="x")))

    def with_call():
        answer, call = stub.Echo.with_call(note, metadata=(("k", "v"),), timeout=20)
        return [show(answer), pairs(call.trailing_metadata())]

    step("with call", with_call)
    step("future", lambda: show(stub.Echo.future(note).result(20)))
    step("list", lambda: [show(one) for one in stub.List(notes_pb2.Query(prefix="n", most=5))])
    step("list none", lambda: list(stub.List(notes_pb2.Query())))
    many = [notes_pb2.Note(text="t" * n, number=n) for n in range(200)]
    step("store", lambda: show(stub.Store(iter(many))))
    step("chat", lambda: [show(one) for one in stub.Chat(iter(many[:5]))])
    with grpc.secure_channel(step.secure, grpc.ssl_channel_credentials(step.authority)) as secure:
        step("secure", lambda: show(notes_pb2_grpc.NotesStub(secure).Echo(note)))
    intercepted = notes_pb2_grpc.NotesStub(grpc.intercept_channel(step.channel, _Tagging()))
    step("intercepted", lambda: show(intercepted.Echo(note)))


class _Tagging(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation, details, request):
        request.tags.append(details.method)
        return continuation(details, request)


class _Adding(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation, details, request):
        changed = (
            details._replace(metadata=[*(details.metadata or ()), ("added", "by interceptor")])
            if hasattr(details, "_replace")
            else details
        )
        return continuation(changed, request + b"!")


class _Token(grpc.AuthMetadataPlugin):
    def __call__(self, context, callback):
        callback((("token", f"for {context.method_name}"),), None)


def channels(step):
    intercepted = grpc.intercept_channel(step.channel, _Adding())
    step("intercepted", step.unary("echo", intercepted), b"x")
    trusting = grpc.ssl_channel_credentials(step.authority)
    secure = grpc.secure_channel(step.secure, trusting)
    step("secure", step.unary("echo", secure), b"x")
    step("secure stream", lambda: list(secure.unary_stream(SERVICE + "count")(b"3")))

    def code(channel):
        try:
            step.unary("echo", channel)(b"x", timeout=10)
        except grpc.RpcError as error:
            return str(error.code())

    step("unknown authority", lambda: code(grpc.secure_channel(step.secure, grpc.ssl_channel_credentials())))
    step(
        "other name",
        lambda: code(grpc.secure_channel(step.secure, trusting, options=[("grpc.ssl_target_name_override", "other.example")])),
    )
    step("not tls", lambda: code(grpc.secure_channel(step.plain, trusting)))
    tokens = grpc.composite_channel_credentials(
        trusting, grpc.metadata_call_credentials(_Token()), grpc.access_token_call_credentials("secret")
    )
    step("call credentials", step.unary("metadata", grpc.secure_channel(step.secure, tokens)), b"")
    per_call = grpc.metadata_call_credentials(_Token())
    step("credentials of one call", lambda: step.unary("metadata", secure)(b"", credentials=per_call))
    compressing = grpc.insecure_channel(step.plain, compression=grpc.Compression.Gzip)
    step("compressing", step.unary("length", compressing), b"a" * 10000)
    unlimited = grpc.insecure_channel(step.plain, options=[("grpc.max_receive_message_length", -1)])
    step("unlimited", step.unary("size", unlimited), b"9000000")
    grpc.channel_ready_future(grpc.insecure_channel(step.plain)).result(20)
    step("ready", lambda: True)

    def never():
        grpc.channel_ready_future(grpc.insecure_channel(step.refused)).result(0.5)

    step("never ready", never)
    with grpc.insecure_channel(step.plain) as scoped:
        step("scoped", step.unary("echo", scoped), b"x")

    def threads():
        results = []

        def work():
            results.extend(step.unary("echo")(b"t") for _ in range(10))

        running = [threading.Thread(target=work) for _ in range(8)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(30)
        return len(results), len(set(results))

    step("threads", threads)


SCENARIOS = {
    "unary": unary,
    "future": future,
    "streams": streams,
    "channels": channels,
    "limits": limits,
    "generated": generated,
}


def crowd(event):
    """Many calls that wait for their server, which takes 6 s for each: a web client and a call with a deadline beside them. After how
    long these two are done (s), and how long after the first of the many began.
    """
    import urllib.error
    import urllib.request

    with grpc.insecure_channel(f"127.0.0.1:{event['ports']['plain']}") as channel:
        first = time.monotonic()
        waiting = [channel.unary_unary(SERVICE + "slow").future(b"6") for _ in range(48)]
        started = time.monotonic()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{event['ports']['refused']}/", timeout=2)
        except urllib.error.URLError as error:
            web = type(error.reason).__name__
        try:
            late = channel.unary_unary(SERVICE + "echo")(b"x", timeout=1).decode()
        except grpc.RpcError as error:
            late = error.code().name
        now = time.monotonic()
        return web, late, now - started, now - first, {call.result(60) for call in waiting} == {b"late"}


def threads_now():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))


def hostile(ports):
    """How calls to these servers end, all at a time, and after how long (s)."""
    started, ends = time.monotonic(), {}
    with contextlib.ExitStack() as stack:
        channels = {name: stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}")) for name, port in ports.items()}
        calls = {name: channel.unary_unary(SERVICE + "echo").future(b"x", timeout=2) for name, channel in channels.items()}
        for name, call in calls.items():
            error = call.exception(20)
            ends[name] = repr(call.result()) if error is None else error.code().name
    return ends, time.monotonic() - started


def handler(event, context):
    if event["scenario"] == "hostile":
        return hostile(event["ports"])
    if event["scenario"] == "crowd":
        return crowd(event)
    if event["scenario"] == "process":
        before = threads_now()
        with grpc.insecure_channel(f"127.0.0.1:{event['ports']['plain']}") as channel:
            channel.unary_unary(SERVICE + "echo")(b"x")
            return threads_now() - before
    step = Steps(event)
    SCENARIOS[event["scenario"]](step)
    return step.log
