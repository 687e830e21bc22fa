"""Sockets of IPv6 as programs use them; prints what a host's kernel and a microVM must agree on."""

import asyncio
import ctypes
import errno
import socket
import struct
from socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_TCP,
    IPV6_V6ONLY,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
)

libc = ctypes.CDLL(None, use_errno=True)


def outcome(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def made(host, kind=SOCK_STREAM, only=None):
    """A socket of the address's family, with IPV6_V6ONLY where it is asked for."""
    new = socket.socket(AF_INET6 if ":" in host else AF_INET, kind)
    new.settimeout(5)
    if only is not None:
        new.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, only)
    return new


def bound(host, kind=SOCK_STREAM, only=None, port=0):
    new = made(host, kind, only)
    new.bind((host, port))
    if kind == SOCK_STREAM:
        new.listen()
    return new


print("there", socket.has_ipv6, socket.has_dualstack_ipv6(), made("::").getsockname())

# A stream over the loopback: both ends and what they say of each other.
for at, to in (
    ("::1", "::1"),
    ("::", "::1"),
    ("::", "127.0.0.1"),
    ("::", "::ffff:127.0.0.1"),
    ("127.0.0.1", "::ffff:127.0.0.1"),
):
    with bound(at) as server, made(to) as client:
        client.connect((to, server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            client.sendall(b"forth")
            accepted.sendall(accepted.recv(10)[::-1])
            names = [client.getsockname(), client.getpeername(), accepted.getsockname(), accepted.getpeername()]
            print(at, to, client.recv(10), [name[:1] + name[2:] for name in names], peer == names[3], accepted.family.name)
            print([name[1] == server.getsockname()[1] for name in names], accepted.getsockopt(SOL_SOCKET, socket.SO_DOMAIN))

for kind in (SOCK_STREAM, SOCK_DGRAM):
    print(kind.name)
    # Who is in whose way, and who hears whom.
    for first, one, second, other in (
        ("::", 0, "0.0.0.0", None),
        ("::", 0, "127.0.0.1", None),
        ("::", 1, "0.0.0.0", None),
        ("::", 1, "::", 0),
        ("::1", 0, "::", 0),
        ("::1", 0, "::", 1),
        ("::1", 0, "::1", 0),
        ("::1", 0, "127.0.0.1", None),
        ("::1", 0, "0.0.0.0", None),
        ("::ffff:127.0.0.1", 0, "127.0.0.1", None),
        ("::ffff:0.0.0.0", 0, "::1", 0),
        ("::ffff:0.0.0.0", 0, "127.0.0.1", None),
        ("0.0.0.0", None, "::", 0),
        ("0.0.0.0", None, "::", 1),
        ("127.0.0.1", None, "::", 0),
    ):
        with bound(first, kind, one) as there, made(second, kind, other) as late:
            print(first, one, second, other, outcome(late.bind, (second, there.getsockname()[1])))
    # Addresses that cannot be bound.
    for address in (("2001:db8::1", 0), ("fe80::1", 0), ("fe80::1", 0, 0, 1), ("::2", 0), ("::ffff:192.0.2.1", 0)):
        with made("::", kind) as here:
            print(address, outcome(here.bind, address), here.getsockname())
    with made("::", kind, 1) as only:
        print("mapped", outcome(only.bind, ("::ffff:127.0.0.1", 0)))
        print("scoped", outcome(only.bind, ("::1", 0, 7, 5)), only.getsockname()[2:], outcome(only.bind, ("::1", 0)))
    # Between the families.
    with bound("127.0.0.1", kind) as four, bound("::1", kind) as six:
        places = [four.getsockname()[1], six.getsockname()[1]]
        for own, only, to, which in (
            ("::1", 0, "::ffff:127.0.0.1", 0),
            ("::ffff:127.0.0.1", 0, "::1", 1),
            ("::ffff:127.0.0.1", 0, "::", 0),
            ("::ffff:127.0.0.1", 0, "::ffff:127.0.0.1", 0),
            ("::", 1, "::ffff:127.0.0.1", 0),
            ("::", 1, "::1", 1),
            ("::", 0, "::", 1),
            ("::", 0, "::ffff:0.0.0.0", 0),
            ("0.0.0.0", None, "127.0.0.1", 0),
            ("0.0.0.0", None, "0.0.0.0", 0),
        ):
            with made(own, kind, only) as client:
                client.bind((own, 0))
                result = outcome(client.connect, (to, places[which]))
                print(own, only, to, result, client.getsockname()[0], result or client.getpeername()[0])
    with made("::", kind) as client:
        print("link-local", outcome(client.connect, ("fe80::1", 9)))
    if kind == SOCK_STREAM:
        with made("::1") as client:
            print("nobody", outcome(client.connect, ("::1", 1)), outcome(client.getpeername))

# Datagrams: one socket for both families.
with bound("::", SOCK_DGRAM) as server, made("::", SOCK_DGRAM) as six, made("0.0.0.0", SOCK_DGRAM) as four:
    port = server.getsockname()[1]
    for client, to in ((six, "::1"), (six, "::ffff:127.0.0.1"), (six, "::"), (four, "127.0.0.1"), (four, "0.0.0.0")):
        client.sendto(b"forth", (to, port))
        data, sender = server.recvfrom(100)
        server.sendto(data[::-1], sender)
        back, answerer = client.recvfrom(100)
        print(to, sender[:1] + sender[2:], back, answerer[:1] + answerer[2:], client.getsockname()[0])
        print(sender[1] == client.getsockname()[1], answerer[1] == port, server.getsockname()[0])
    # Connected, it hears its peer alone; then anybody again.
    six.connect(("::1", port))
    four.sendto(b"stranger", ("127.0.0.1", six.getsockname()[1]))
    six.send(b"x")
    sender = server.recvfrom(10)[1]
    server.sendto(b"peer", sender)
    print(sender[0], six.recvfrom(100)[0], six.getsockname()[0])
    assert libc.connect(six.fileno(), struct.pack("=H14x", 0), 16) == 0
    print(six.getsockname()[0], outcome(six.getpeername))
    # As glibc's getaddrinfo does: an IPv4 address for a socket of IPv6.
    plain = struct.pack("=H2s4s8x", AF_INET, struct.pack(">H", port), socket.inet_aton("127.0.0.1"))
    print(libc.connect(six.fileno(), plain, 16), six.getsockname()[0], six.getpeername()[0])
    with made("::", SOCK_DGRAM, 1) as only:
        print("only", outcome(only.sendto, b"x", ("::ffff:127.0.0.1", port)), only.sendto(b"x", ("::1", port)))

# To a port that there cannot be.
for host in ("::1", "127.0.0.1", "::", "0.0.0.0"):
    with made(host, SOCK_DGRAM) as one:
        print("no port", outcome(one.sendto, b"x", (host, 0)), outcome(one.connect, (host, 0)), outcome(one.getpeername))

# Addresses as bytes: every length that is special, of every family.
loopback = socket.inet_pton(AF_INET6, "::1") + bytes(232)
for kind in (SOCK_STREAM, SOCK_DGRAM):
    for family in (AF_INET, AF_INET6, AF_UNIX):
        for call in ("bind", "connect", "sendto"):
            results = []
            for named in (socket.AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, 77):
                port = struct.pack(">H", 0 if call == "bind" else 9)
                rest = socket.inet_aton("127.0.0.1") + bytes(248) if named == AF_INET else bytes(4) + loopback
                address = struct.pack("=H", named) + (port + rest if named in (AF_INET, AF_INET6) else b"\0" + rest)
                for length in (-1, 0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 110, 111, 128, 129, 200):
                    # Names that may exist are another matter; who sends on a stream to an address is not asked for one.
                    if named == AF_UNIX == family or (call == "sendto" and kind == SOCK_STREAM):
                        continue
                    with socket.socket(family, kind) as one:
                        if call == "sendto":
                            code = libc.sendto(one.fileno(), b"x", 1, socket.MSG_NOSIGNAL, address, length)
                        else:
                            code = getattr(libc, call)(one.fileno(), address, length)
                        results.append(errno.errorcode[ctypes.get_errno()] if code < 0 else code)
            print(kind.name, family.name, call, results)
# And given back, as much of them as there is room for.
with bound("::1") as server:
    for room in (0, 1, 8, 27, 28, 128):
        buffer, length = ctypes.create_string_buffer(b"\xff" * 128), ctypes.c_int(room)
        code = libc.getsockname(server.fileno(), buffer, ctypes.byref(length))
        shown = bytearray(buffer.raw)
        shown[2:4] = b"\0\0" if room > 3 else shown[2:4]
        print(room, code, length.value, bytes(shown[: room + 1]))
    buffer, length = ctypes.create_string_buffer(128), ctypes.c_int(-1)
    print(libc.getsockname(server.fileno(), buffer, ctypes.byref(length)), errno.errorcode[ctypes.get_errno()])
    for at in (1, 2**47, 2**64 - 8):
        code = libc.getsockname(server.fileno(), ctypes.c_void_p(at), ctypes.byref(ctypes.c_int(28)))
        print(code, errno.errorcode[ctypes.get_errno()])
        code = libc.bind(server.fileno(), ctypes.c_void_p(at), 28)
        print(code, errno.errorcode[ctypes.get_errno()])

# What there is no socket of.
for family, kind, protocol in (
    (AF_INET6, socket.SOCK_SEQPACKET, 0),
    (AF_INET6, SOCK_STREAM, socket.IPPROTO_UDP),
    (AF_INET6, SOCK_DGRAM, IPPROTO_TCP),
):
    print("none", outcome(socket.socket, family, kind, protocol))
print("no pair", outcome(socket.socketpair, AF_INET6))

# Options.
for kind in (SOCK_STREAM, SOCK_DGRAM):
    with made("::", kind) as six, made("0.0.0.0", kind) as four:
        asked = (
            IPV6_V6ONLY,
            socket.IPV6_UNICAST_HOPS,
            socket.IPV6_MULTICAST_HOPS,
            socket.IPV6_MULTICAST_LOOP,
            socket.IPV6_TCLASS,
        )
        print([six.getsockopt(IPPROTO_IPV6, option) for option in asked], six.getsockopt(SOL_SOCKET, socket.SO_PROTOCOL))
        print([six.getsockopt(IPPROTO_IP, o) for o in (socket.IP_TTL, socket.IP_MULTICAST_TTL, socket.IP_MULTICAST_LOOP)])
        for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS, socket.IPV6_TCLASS):
            for value in (-2, 0, 252, 256, -1):
                print(option, value, outcome(six.setsockopt, IPPROTO_IPV6, option, value), six.getsockopt(IPPROTO_IPV6, option))
        for value in (5, b"\1", b"", b"\0\0\0\0"):
            print(value, outcome(six.setsockopt, IPPROTO_IPV6, IPV6_V6ONLY, value), six.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY))
        six.bind(("::", 0))
        print("late", outcome(six.setsockopt, IPPROTO_IPV6, IPV6_V6ONLY, 1))
        print("of IPv4", outcome(four.setsockopt, IPPROTO_IPV6, IPV6_V6ONLY, 1))

# An accepted connection has its listener's options.
chosen = [
    *(
        (SOL_SOCKET, option, 1)
        for option in (socket.SO_OOBINLINE, socket.SO_KEEPALIVE, socket.SO_REUSEADDR, socket.SO_BROADCAST)
    ),
    (SOL_SOCKET, socket.SO_SNDBUF, 20000),
    (SOL_SOCKET, socket.SO_RCVBUF, 20000),
    (SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 7)),
    (SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 3, 0)),
    (IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    (IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 99),
    (IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 33),
]
with made("::") as listener:
    for option in chosen:
        listener.setsockopt(*option)
    listener.bind(("::1", 0))
    listener.listen()
    with socket.create_connection(listener.getsockname()[:2]) as client:
        accepted = listener.accept()[0]
        print([accepted.getsockopt(level, option, 16) for level, option, _ in chosen])
        client.sendall(b"ABOR\r\n", socket.MSG_OOB)
        urgent = b""
        while len(urgent) < 6:
            urgent += accepted.recv(100)
        print("urgent", urgent)
        accepted.close()
with socket.socket(AF_UNIX) as listener, socket.socket(AF_UNIX) as client:
    for option in (socket.SO_PASSCRED, socket.SO_KEEPALIVE):
        listener.setsockopt(SOL_SOCKET, option, 1)
    listener.bind("")
    listener.listen()
    client.connect(listener.getsockname())
    accepted = listener.accept()[0]
    print([accepted.getsockopt(SOL_SOCKET, option) for option in (socket.SO_PASSCRED, socket.SO_KEEPALIVE)])
    accepted.close()


# As programs listen and connect.
async def talk(host, to):
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, host, 0) as server:
        reader, writer = await asyncio.open_connection(to, server.sockets[0].getsockname()[1])
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line, [one.family.name for one in server.sockets]


print(asyncio.run(talk("::1", "::1")), asyncio.run(talk("127.0.0.1", "localhost")))
with socket.create_server(("::", 0), family=AF_INET6, dualstack_ipv6=True) as server:
    for to in ("127.0.0.1", "::1", "localhost"):
        with socket.create_connection((to, server.getsockname()[1])) as client:
            accepted, _ = server.accept()
            accepted.sendall(b"dual")
            print(client.recv(10))
            accepted.close()
