"""A nexus-vmm without a VM: speaks the configuration, report and arena protocols (docs/protocols.md, docs/abi.md).

What it does is told by the function's environment (FAKE_INIT) and by each event's "do".
"""

import ctypes
import fcntl
import json
import mmap
import os
import signal
import socket
import struct
import sys
import time

SUBMIT_TAIL, COMPLETE_TAIL, COMPLETE_HEAD, SIGNALS = 0x40, 0xC0, 0x100, 0x180
SYS_FUTEX, FUTEX_WAIT = 202, 0
SUBMIT_RING, COMPLETE_RING, HEAP = 0x1000, 0x2000, 0x4000
NEXT, INIT_ERROR = 1, 2
RESULT, ERROR = 1, 2
BODY = HEAP + 0x10000


class Arena:
    def __init__(self, device):
        self.memory = mmap.mmap(device["arena"], 0)
        # Whole words: struct would store them byte by byte, and the other side sees every step.
        self.control = memoryview(self.memory)[:SUBMIT_RING].cast("I")
        self.doorbell = device["doorbell"]
        # An eventfd; where there is none, a futex.
        self.completion = device.get("completion")
        self.signals = ctypes.c_uint32.from_buffer(self.memory, SIGNALS)
        self.system = ctypes.CDLL(None).syscall
        self.count = 0

    def index(self, offset):
        return self.control[offset // 4]

    def store(self, offset, value):
        self.control[offset // 4] = value

    def submit(self, operation, flags=0, head=b"", body=b""):
        self.memory[HEAP : HEAP + len(head)] = head
        self.memory[BODY : BODY + len(body)] = body
        room = len(self.memory) - BODY
        entry = struct.pack("<QHHIIIIIIIQ16x", self.count, operation, flags, HEAP, len(head), BODY, len(body), BODY, room, 0, 0)
        offset = SUBMIT_RING + self.count % 64 * 64
        self.memory[offset : offset + 64] = entry
        self.count += 1
        self.store(SUBMIT_TAIL, self.count)
        os.write(self.doorbell, struct.pack("<Q", 1))

    def complete(self):
        head = self.index(COMPLETE_HEAD)
        while True:
            seen = self.signals.value
            if self.index(COMPLETE_TAIL) != head:
                break
            if self.completion is not None:
                os.read(self.completion, 8)
            else:
                self.system(SYS_FUTEX, ctypes.byref(self.signals), FUTEX_WAIT, ctypes.c_uint32(seen), None)
        fields = struct.unpack_from("<QiIIIIIQQ", self.memory, COMPLETE_RING + head % 64 * 64)
        _, status, _, head_at, head_length, body_at, body_length, _, _ = fields
        reply = bytes(self.memory[head_at : head_at + head_length])
        body = bytes(self.memory[body_at : body_at + body_length])
        self.store(COMPLETE_HEAD, head + 1)
        if status:
            raise SystemExit(f"completion status {status}: {reply!r}")
        return json.loads(reply), body


def report(config, **event):
    os.write(config["report"], json.dumps(event).encode() + b"\n")


def s3(op, bucket, key, text="", size=0, endpoint=None, headers=()):
    """One S3 operation: status, ETag, and the body without its padding. `size` pads the text."""
    mode = [["x-amz-checksum-mode", "ENABLED"]] if op == "GetObject" else []
    head = {
        "op": op,
        "bucket": bucket,
        "key": key,
        "query": [],
        "headers": [*mode, *headers],
        "region": "us-east-1",
        "endpoint": endpoint,
    }
    arena.submit(16, head=json.dumps(head).encode(), body=text.encode().ljust(size, b"."))
    reply, body = arena.complete()
    etag = [value for name, value in reply["headers"] if name.lower() == "etag"]
    return [reply["status"], etag[0] if etag else None, body.rstrip(b".").decode(errors="replace")]


def handle(config, context, event):
    """The handler: the result, or an exception that is Lambda's error object."""
    what = event.get("do") if isinstance(event, dict) else None
    if what == "sleep":
        time.sleep(event["s"])
    elif what == "exit":
        os._exit(event["status"])
    elif what == "signal":
        os.kill(os.getpid(), getattr(signal, event["name"]))
    elif what == "memory":
        report(config, event="memory-limit", limit_mib=config["memory_mib"])
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "print":
        print(event["text"], flush=True)
    elif what == "flood":
        for _ in range(event["mib"]):
            os.write(1, b"x" * 1023 + b"\n" if event.get("small") else (b"x" * 1023 + b"\n") * 1024)
    elif what == "big":
        return "x" * (event["size"] - 2)
    elif what == "s3":
        return [s3(**op) if "op" in op else time.sleep(op["pause"]) for op in event["ops"]]
    elif what == "env":
        return config["program"]["env"]
    elif what == "context":
        return context
    elif what == "raise":
        raise ValueError("went wrong")
    elif what == "rubbish":
        arena.store(SUBMIT_TAIL, arena.count + 1000)
        os.write(arena.doorbell, struct.pack("<Q", 1))
        time.sleep(60)
    return {"pid": os.getpid(), "event": event, "version": config["program"]["env"].get("VERSION")}


def serve(config):
    arena.submit(NEXT)
    while True:
        context, body = arena.complete()
        started = time.monotonic_ns()
        try:
            flags, result = RESULT, handle(config, context, json.loads(body))
        except ValueError as error:
            flags, result = ERROR, {"errorMessage": str(error), "errorType": "ValueError", "stackTrace": ["here"]}
        times = json.dumps({"started_ns": started, "ended_ns": time.monotonic_ns()}).encode()
        arena.submit(NEXT, flags, times, json.dumps(result).encode())


def initialise(config):
    init = config["program"]["env"].get("FAKE_INIT", "")
    print("initialising", flush=True)
    if init == "error":
        error = {"errorMessage": "No module named 'x'", "errorType": "Runtime.ImportModuleError", "stackTrace": []}
        arena.submit(INIT_ERROR, body=json.dumps(error).encode())
        time.sleep(0.05)
        sys.exit(1)
    if init == "exit":
        os._exit(3)
    if init == "slow":
        time.sleep(1)


if sys.argv[1] == "probe":
    print(json.dumps({"usable": True, "machine": "fake"}))
    sys.exit(0)


def good(snapshot):
    with open(snapshot + "/pages") as file:
        return file.read() == "good"


if sys.argv[1] == "verify":
    assert sys.argv[2:] == ["--config-stdin"], sys.argv
    if good(json.load(sys.stdin)["snapshot"]):
        sys.exit(0)
    print("the snapshot's checksum is wrong")
    sys.exit(125)

if sys.argv[1] == "shell":
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    assert options.pop("--control-fd") == "16", sys.argv
    # As whom it runs guests: nobody, where the node is root.
    assert options.pop("--uid", None) == ("65534" if os.geteuid() == 0 else None), sys.argv
    assert options in ({}, {"--base-fd": "7"}), sys.argv
    control = socket.socket(fileno=16)
    control.send(b"\1")
    numbers, fds, _, _ = socket.recv_fds(control, 64, 16)
    if not numbers:
        sys.exit(0)
    numbers = struct.unpack(f"<{len(fds)}i", numbers)
    # Out of the way of the numbers first.
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 32) for fd in fds]
    for fd, number in zip(fds, numbers):
        os.dup2(fd, number, inheritable=False)
else:
    assert sys.argv[1:] == ["serve", "--config-fd", "7"], sys.argv
with os.fdopen(7) as file:
    config = json.load(file)
arena = Arena(config["device"])
mode, snapshot = config["mode"], config["snapshot"]
if mode == "initialise":
    initialise(config)
    for name, content in (("metadata", os.urandom(16).hex()), ("pages", "good")):
        with open(f"{snapshot}/{name}", "w") as file:
            file.write(content)
    report(config, event="snapshot", bytes=1 << 20, mappings=3)
    sys.exit(0)
if mode == "restore" and not good(snapshot):
    report(config, event="refused", reason="the snapshot's checksum is wrong")
    sys.exit(125)
if mode == "process":
    initialise(config)
if config.get("record"):

    def tell(number, frame):
        report(config, event="working-set", written=[[1024, 2]], read=[[2048, 1]], changed=[], last=True)

    signal.signal(signal.SIGURG, tell)
report(config, event="ready", isolation="kvm", machine="fake", us=100)
serve(config)
