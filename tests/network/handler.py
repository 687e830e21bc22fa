"""Programs that talk to the outside, run in a function: each call names one."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import ssl
import threading
from typing import Any


def _answer(connection: socket.socket) -> str:
    connection.sendall(b"hello\n")
    return connection.makefile("rb").readline().decode()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def tcp(host: str, port: int) -> Any:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return [_answer(connection), connection.getpeername() == (socket.gethostbyname(host), port)]


def blocking(host: str, port: int) -> Any:
    with socket.socket(_family(host)) as connection:
        connection.connect((host, port))
        return _answer(connection)


def by_poll(host: str, port: int) -> Any:
    """Connect without waiting; poll says when, SO_ERROR whether."""
    with socket.socket(_family(host)) as connection:
        connection.setblocking(False)
        code = connection.connect_ex((host, port))
        poller = select.poll()
        poller.register(connection, select.POLLOUT)
        events = poller.poll(10_000)
        failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        again = connection.connect_ex((host, port)) if not failed else None
        return [errno.errorcode.get(code, code), bool(events), errno.errorcode.get(failed, failed), again in (0, errno.EISCONN)]


def by_epoll(host: str, port: int) -> Any:
    """Registered before it is connected, as Go does it."""
    with socket.socket(_family(host)) as connection, select.epoll() as poller:
        connection.setblocking(False)
        poller.register(connection, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        poller.poll(0)
        connection.connect_ex((host, port))
        assert poller.poll(10), "no event"
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        connection.send(b"hello\n")
        while not any(event & select.EPOLLIN for _, event in poller.poll(10)):
            pass
        return connection.recv(100).decode()


def by_a_number_again(host: str, port: int) -> Any:
    """What an epoll instance says of a connection that has the number of a closed one, and is not registered itself."""
    with select.epoll() as poller:
        first = socket.create_connection((host, port))
        number = first.fileno()
        poller.register(first, select.EPOLLIN)
        first.close()
        with socket.create_connection((host, port)) as second:
            second.sendall(b"hello\n")
            select.select([second], [], [], 10)
            before = poller.poll(0.2)
            poller.register(second, select.EPOLLIN)
            return [second.fileno() == number, before, len(poller.poll(10))]


def shut(host: str, port: int) -> Any:
    """Half-close: the server sees the end and answers."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"count me")
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().decode()


def large(host: str, port: int) -> Any:
    """More than any buffer holds, both ways at once."""
    total = 8 << 20
    with socket.create_connection((host, port), timeout=30) as connection:

        def send() -> None:
            connection.sendall(b"x" * total)
            connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        received = 0
        while part := connection.recv(1 << 16):
            received += len(part)
        thread.join()
        return received == total


def streams(host: str, port: int) -> Any:
    """asyncio: ten connections at a time."""

    async def one(number: int) -> str:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"%d\n" % number)
        await writer.drain()
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line.decode()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(number) for number in range(10)))

    return asyncio.run(all_of_them())


def tls(host: str, port: int, authority: str) -> Any:
    context = ssl.create_default_context(cadata=authority)
    raw = socket.create_connection((host, port), timeout=10)
    with context.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.sendall(b"hello\n")
        return [connection.recv(100).decode(), connection.version()]


def udp(host: str, port: int) -> Any:
    family = _family(host)
    with socket.socket(family, socket.SOCK_DGRAM) as free, socket.socket(family, socket.SOCK_DGRAM) as bound:
        free.settimeout(10)
        free.sendto(b"one", (host, port))
        first, sender = free.recvfrom(100)
        bound.settimeout(10)
        bound.connect((host, port))
        bound.send(b"two")
        return [first.decode(), sender[:2] == (host, port), bound.recv(100).decode()]


def many_datagrams(host: str, port: int) -> Any:
    """How many of so many sockets hear an answer, and what the first of them hears once it sends again."""
    sockets = [socket.socket(_family(host), socket.SOCK_DGRAM) for _ in range(200)]
    heard = 0
    for end in sockets:
        end.settimeout(10)
        end.sendto(b"one", (host, port))
        heard += end.recv(100) == b"ONE"
    sockets[0].sendto(b"again", (host, port))
    again = sockets[0].recv(100).decode()
    for end in sockets:
        end.close()
    return [heard, again]


def names_of_six(host: str, port: int) -> Any:
    """What a connection by IPv6 says of its ends; `host` may be IPv4's, mapped."""
    with socket.create_connection((host, port), timeout=10) as connection:
        return [connection.getsockname()[0], connection.getpeername() == (host, port, 0, 0), _answer(connection)]


def seen_as(host: str, port: int) -> Any:
    """A guest's own address towards another; nothing is sent."""
    with socket.socket(_family(host), socket.SOCK_DGRAM) as towards:
        towards.connect((host, port))
        return towards.getsockname()[0]


def scoped(host: str, port: int, scope: int) -> Any:
    with socket.socket(socket.AF_INET6) as connection:
        connection.connect((host, port, 0, scope))


def by_two_families(udp_v4: int, udp_v6: int) -> Any:
    """One datagram socket, and servers of both families."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as both:
        both.settimeout(10)
        answers = []
        for place in (("::1", udp_v6), ("::ffff:127.0.0.1", udp_v4)):
            both.sendto(b"x", place)
            data, sender = both.recvfrom(100)
            answers.append([data.decode(), sender == (*place, 0, 0)])
        return answers


def resolve(name: str, family: int = 0) -> Any:
    return sorted({entry[4][0] for entry in socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)})


def inside(port: int) -> Any:
    """A port that is listened on inside is the instance's own, whatever the host has there."""
    with socket.create_server(("127.0.0.1", port)) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.sendall(b"inside")
        return client.recv(100).decode()


def many(host: str, port: int, count: int) -> Any:
    """Open and close, without leaking."""
    for _ in range(count):
        socket.create_connection((host, port), timeout=10).close()
    return count


def handler(event: dict[str, Any], context: object) -> Any:
    call = dict(event)
    try:
        return {"value": globals()[call.pop("call")](**call)}
    except OSError as error:
        return {"error": type(error).__name__, "errno": errno.errorcode.get(error.errno or 0, error.errno)}
