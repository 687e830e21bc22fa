"""Sockets as programs use them; prints what a host's kernel and a microVM must agree on."""

import array
import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)


def name(error):
    return errno.errorcode[error.errno]


# What is sent to a peer that has gone: nothing is no error, the first bytes are lost, the next are refused.
with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as left:
    listening.accept()[0].close()
    print("empty", left.send(b""), left.send(b""), left.recv(1), left.send(b""), left.send(b"x"))
    for data in (b"", b"y"):
        try:
            print("sent", left.send(data))
        except OSError as error:
            print("refused", name(error))

# No more of it is lost than a connection takes without anybody reading.
with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as left:
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024)
    listening.accept()[0].close()
    try:
        left.sendall(bytes(10_000_000))
    except OSError as error:
        print("gone", type(error).__bases__)

# The urgent byte among the others.
with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as left:
    right = listening.accept()[0]
    right.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    left.sendall(b"ABOR\r\n", socket.MSG_OOB)
    urgent = b""
    while len(urgent) < 6:
        urgent += right.recv(100)
    print("urgent", urgent, right.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
    right.close()

# A TCP connection over the loopback, both ways, to its end.
server = socket.create_server(("127.0.0.1", 0))
address = server.getsockname()


def serve():
    connection, peer = server.accept()
    with connection:
        data = b""
        while part := connection.recv(1 << 16):
            data += part
        connection.sendall(data[::-1])
        print("peer", peer[0], connection.getsockname() == address)


thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(address) as client:
    client.sendall(b"abc" * 100_000)
    client.shutdown(socket.SHUT_WR)
    back = b""
    while part := client.recv(1 << 16):
        back += part
    print("echo", back == (b"abc" * 100_000)[::-1], client.getsockname()[0])
thread.join()

# Readiness of a listener and of a connection that is made without waiting.
poller = select.epoll()
poller.register(server, select.EPOLLIN)
print("idle", poller.poll(0))
client = socket.socket()
client.setblocking(False)
print("connect", errno.errorcode.get(client.connect_ex(address)))
print("waiting", [event for _, event in poller.poll(1)] == [select.EPOLLIN])
print("writable", select.select([], [client], [], 1)[1] == [client], client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
print("again", errno.errorcode.get(client.connect_ex(address)))
accepted, _ = server.accept()
accepted.close()
print("end", client.recv(1))
client.close()

# What is refused.
for port, family, kind in ((1, socket.AF_INET, socket.SOCK_STREAM),):
    with socket.socket(family, kind) as lonely:
        try:
            lonely.connect(("127.0.0.1", port))
        except OSError as error:
            print("refused", name(error))
        for call in (lambda: lonely.getpeername(), lambda: lonely.recv(1), lambda: lonely.shutdown(2), lambda: lonely.accept()):
            try:
                call()
            except OSError as error:
                print("refused", name(error))
with socket.socket() as second:
    try:
        second.bind(address)
    except OSError as error:
        print("taken", name(error))
    try:
        second.bind(("192.0.2.1", 0))
    except OSError as error:
        print("not here", name(error))
server.close()

# Datagrams keep their borders and their senders.
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 0))
b.bind(("127.0.0.1", 0))
for message in (b"one", b"", b"three"):
    b.sendto(message, a.getsockname())
for _ in range(3):
    data, sender = a.recvfrom(2)
    print("datagram", data, sender == b.getsockname())
try:
    b.send(b"x")
except OSError as error:
    print("nowhere", name(error))
a.connect(b.getsockname())
a.send(b"connected")
print(b.recv(100))
try:
    a.send(b"x" * 65508)
except OSError as error:
    print("long", name(error))

# Who is connected to a port where nobody is learns of it, once.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as lonely:
    c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    c.bind(("127.0.0.1", 0))
    lonely.settimeout(2)
    lonely.connect(c.getsockname())
    c.close()
    lonely.send(b"x")
    try:
        lonely.recv(1)
    except OSError as error:
        print("nobody", name(error))
    lonely.setblocking(False)
    try:
        lonely.recv(1)
    except OSError as error:
        print("told once", name(error))


def shared(kind, *options):
    """Two sockets with one address: who gets what is sent there is not compared, but for the error."""
    one, other = socket.socket(socket.AF_INET, kind), socket.socket(socket.AF_INET, kind)
    with one, other:
        for end, option in zip((one, other), options, strict=True):
            if option:
                end.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            one.listen()
        try:
            other.bind(one.getsockname())
        except OSError as error:
            return name(error)
        if kind == socket.SOCK_STREAM:
            other.listen()
            with socket.create_connection(one.getsockname()) as client:
                ready = select.select([one, other], [], [], 2)[0]
                return len(ready), client.getpeername() == one.getsockname()
        return other.getsockname() == one.getsockname()


for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for pair in ((socket.SO_REUSEPORT,) * 2, (socket.SO_REUSEADDR,) * 2, (socket.SO_REUSEPORT, 0), (0, socket.SO_REUSEPORT)):
        print("shared", int(kind), pair, shared(kind, *pair))

# What is closed is registered no more, whoever has its number next.
poller = select.epoll()
a, b = socket.socketpair()
number = a.fileno()
poller.register(a, select.EPOLLIN)
a.close()
a, c = socket.socketpair()
c.sendall(b"x")
print("reused", a.fileno() == number, poller.poll(0.1))
poller.register(a, select.EPOLLIN)
print("registered", [event for _, event in poller.poll(0.1)])
for end in (a, b, c, poller):
    end.close()
with socket.create_server(("127.0.0.1", 0)) as listening, select.epoll() as poller:
    first = socket.socket()
    number = first.fileno()
    poller.register(first, select.EPOLLIN)
    first.close()
    second = socket.create_connection(listening.getsockname())
    accepted = listening.accept()[0]
    accepted.sendall(b"x")
    print("reused", second.fileno() == number, poller.poll(0.1))
    second.close()
    accepted.close()
with socket.socket() as asked:
    print("usual", [asked.getsockopt(6, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)])
    print("state", asked.getsockopt(6, socket.TCP_INFO, 200)[0], len(asked.getsockopt(6, socket.TCP_INFO, 200)))

# UNIX names: files and abstract ones; descriptors that travel.
os.chdir(os.environ.get("TMPDIR", "/tmp"))
with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
    listener.bind("named")
    listener.listen()
    client.connect("named")
    end, peer = listener.accept()
    print("unix", repr(peer), client.getpeername(), oct(os.stat("named").st_mode >> 12))
    read, write = os.pipe()
    socket.send_fds(client, [b"with"], [write])
    data, passed, flags, _ = socket.recv_fds(end, 100, 4)
    os.close(write)
    os.write(passed[0], b"through")
    os.close(passed[0])
    print(data, len(passed), flags, os.read(read, 100), os.read(read, 1))
    client.sendmsg([b"many ", b"parts"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read, read]))])
    data, control, flags, _ = end.recvmsg(100, 0)
    print(data, control, flags & socket.MSG_CTRUNC == socket.MSG_CTRUNC)
    end.close()
    os.unlink("named")
    try:
        with socket.socket(socket.AF_UNIX) as late:
            late.connect("named")
    except OSError as error:
        print("gone", name(error))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two:
    one.bind(b"\0nexus-test-%d" % os.getpid())
    two.bind("two")
    two.sendto(b"hello", one.getsockname())
    print(one.recvfrom(100))
    os.unlink("two")

# A pair, and options.
left, right = socket.socketpair()
left.sendall(b"pair")
print(right.recv(2, socket.MSG_PEEK), right.recv(10), left.getsockname() == "")
right.close()
try:
    left.send(b"x")
except OSError as error:
    print("closed", name(error))
with socket.socket() as tuned:
    tuned.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tuned.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = [tuned.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_REUSEADDR, socket.SO_TYPE, socket.SO_KEEPALIVE)]
    print(shown, tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)


def mutual(one, other):
    for _ in range(3000):
        try:
            one.connect(other.getsockname())
        except ConnectionRefusedError:
            refused.append(1)


# Two that connect to each other, and neither listens.
refused = []
pair = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for number, end in enumerate(pair):
    end.bind(f"\0mutual-{os.getpid()}-{number}")
threads = [threading.Thread(target=mutual, args=ends) for ends in (pair, pair[::-1])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
print(len(refused), any(thread.is_alive() for thread in threads))

# Connected to nobody any more, a stream is as it was before: its address stays if it was asked for one, and it may connect again.
nobody = struct.pack("=H14x", socket.AF_UNSPEC)
for asked in (None, ("127.0.0.1", 0), ("0.0.0.0", 0)):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        server.settimeout(5)
        client.settimeout(5)
        if asked is not None:
            client.bind(asked)
        client.connect(server.getsockname())
        own = client.getsockname()
        accepted, _ = server.accept()
        print("before", own[0], accepted.getpeername() == own)
        print("nobody", libc.connect(client.fileno(), nobody, 16), client.getsockname()[0], client.getsockname()[1] == own[1])
        try:
            client.getpeername()
        except OSError as error:
            print(name(error))
        poller = select.poll()
        poller.register(accepted, select.POLLIN)
        print("told", bool(poller.poll(5000)))
        client.connect(server.getsockname())
        again, _ = server.accept()
        again.send(b"again")
        print(client.recv(10), client.getsockname()[0], again.getpeername() == client.getsockname())
        accepted.close()
        again.close()
    # Who waits in another thread is told.
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        buffer = ctypes.create_string_buffer(1)
        waiting = threading.Thread(target=libc.recv, args=(client.fileno(), buffer, 1, 0), daemon=True)
        waiting.start()
        time.sleep(0.1)
        libc.connect(client.fileno(), nobody, 16)
        waiting.join(5)
        print("woken", not waiting.is_alive())
        accepted.close()
    # A server that no longer listens.
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        print("deaf", libc.connect(server.fileno(), nobody, 16))
        try:
            client.connect(server.getsockname())
        except OSError as error:
            print(name(error))
