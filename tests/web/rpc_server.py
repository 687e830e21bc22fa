"""A gRPC server with every kind of method, with and without TLS; run as web_servers.py is.

Most methods are generic (bytes in, bytes out): what a stub is made of is `channel.unary_unary(...)` and its like. Beside
them is a service made from notes.proto.
"""

import contextlib
import socket
import sys
import time
from concurrent import futures
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import grpc
import notes_pb2
import notes_pb2_grpc
import web_servers
from google.protobuf import struct_pb2

SERVICE = "test.Service"


def _metadata(context):
    kept = [(k, v) for k, v in context.invocation_metadata() if not k.startswith(("user-agent", "grpc-", "x-google"))]
    return sorted(kept, key=str)


def echo(request, context):
    context.send_initial_metadata((("initial", "one"), ("data-bin", b"\x00\xff")))
    context.set_trailing_metadata((("trailing", "two"), ("more-bin", b"\x01")))
    return b"echo:" + request


def metadata(request, context):
    return repr(_metadata(context)).encode()


def fails(request, context):
    context.set_trailing_metadata((("why", "because"),))
    context.abort(grpc.StatusCode(_codes()[request.decode()]), "it failed: \u00e4%\n")


def _codes():
    return {code.name: code.value for code in grpc.StatusCode}


def raises(request, context):
    raise RuntimeError("unexpected")


def slow(request, context):
    time.sleep(float(request))
    return b"late"


def size(request, context):
    return bytes(int(request))


def length(request, context):
    return str(len(request)).encode()


def packed(request, context):
    context.set_compression(grpc.Compression.Gzip)
    return request


def deadline(request, context):
    left = context.time_remaining()
    return b"none" if left is None or left > 1e6 else b"some" if 0 < left < 60 else b"odd"


def count(request, context):
    context.send_initial_metadata((("initial", "stream"),))
    for number in range(int(request)):
        yield b"%d" % number
    context.set_trailing_metadata((("trailing", "end"),))


def breaks(request, context):
    for number in range(3):
        yield b"%d" % number
    context.abort(grpc.StatusCode.DATA_LOSS, "after three")


def forever(request, context):
    number = 0
    while context.is_active():
        yield b"%d" % number
        number += 1
        time.sleep(0.01)


def large(request, context):
    for _ in range(int(request)):
        yield bytes(1 << 20)


def total(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def first(requests, context):
    return next(requests)


def chat(requests, context):
    for request in requests:
        yield b"re:" + request


def struct(request, context):
    answer = struct_pb2.Struct()
    answer.update({"got": dict(request), "count": len(request)})
    return answer


class Notes(notes_pb2_grpc.NotesServicer):
    """As its users would write it; `Missing` is left out."""

    def Echo(self, request, context):
        if not request.text:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a note needs a text")
        context.set_trailing_metadata((("tags", str(len(request.tags))),))
        request.number += 1
        return request

    def List(self, request, context):
        for number in range(request.most):
            yield notes_pb2.Note(text=f"{request.prefix}{number}", number=number, kind=number % 2)

    def Store(self, request_iterator, context):
        notes = list(request_iterator)
        return notes_pb2.Summary(count=len(notes), total=sum(note.number for note in notes), notes=notes[:2])

    def Chat(self, request_iterator, context):
        for note in request_iterator:
            yield notes_pb2.Note(text=note.text.upper(), next=note)


METHODS = {
    **{
        f.__name__: grpc.unary_unary_rpc_method_handler(f)
        for f in (echo, metadata, fails, raises, slow, size, length, packed, deadline)
    },
    **{f.__name__: grpc.unary_stream_rpc_method_handler(f) for f in (count, breaks, forever, large)},
    **{f.__name__: grpc.stream_unary_rpc_method_handler(f) for f in (total, first)},
    **{f.__name__: grpc.stream_stream_rpc_method_handler(f) for f in (chat,)},
    "struct": grpc.unary_unary_rpc_method_handler(struct, struct_pb2.Struct.FromString, struct_pb2.Struct.SerializeToString),
}


@contextlib.contextmanager
def serve(folder: Path):
    files = web_servers.certificates(folder)
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, METHODS),))
    notes_pb2_grpc.add_NotesServicer_to_server(Notes(), server)
    pair = (files["server"].with_suffix(".key").read_bytes(), files["server"].read_bytes())
    ports = {
        "plain": server.add_insecure_port("127.0.0.1:0"),
        "secure": server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials((pair,))),
    }
    server.start()
    # Bound, so that it is nobody else's, and without a listener.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports["refused"] = closed.getsockname()[1]
        try:
            yield {"ports": ports, "authority": files["authority"].read_text()}
        finally:
            server.stop(0)


if __name__ == "__main__":
    web_servers.main(serve)
