"""Local web servers of every temper: a well-behaved one with and without TLS, a proxy, and some that break the rules.

`python web_servers.py FOLDER` runs them until its input ends; what it prints first is what scenarios are told of them.
"""

import base64
import contextlib
import gzip
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MIB = 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Each answer in one piece, as real servers do it: no waits between Nagle's algorithm and delayed acknowledgements.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self, status=200, body=b"", headers=(), *, length=True):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def drain(self):
        """Length of a chunked body, which is kept nowhere."""
        total = 0
        while size := int(self.rfile.readline().split(b";")[0], 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return total

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        act = getattr(self, "get_" + path.strip("/").split("/")[0].replace("-", "_"), None)
        if act is None:
            self.answer(404, b"there is no " + path.encode())
        else:
            act(query)
        self.wfile.flush()

    do_HEAD = do_DELETE = do_OPTIONS = do_GET

    def do_POST(self):
        if self.path == "/count":
            self.answer(201, json.dumps({"length": self.drain()}).encode())
            self.wfile.flush()
            return
        body = self.body()
        echo = {"method": self.command, "path": self.path, "length": len(body), "sum": sum(body), "start": body[:40].hex()}
        echo["headers"] = [[n, v] for n, v in self.headers.items() if n not in {"Host"}]
        self.answer(201, json.dumps(echo).encode(), [("Content-Type", "application/json")])
        self.wfile.flush()

    do_PUT = do_PATCH = do_POST

    def get_hello(self, _):
        self.answer(200, b"hello", [("Content-Type", "text/plain")])

    def get_echo(self, _):
        self.answer(200, json.dumps([[n, v] for n, v in self.headers.items() if n != "Host"]).encode())

    def get_host(self, _):
        self.answer(200, b"it is there" if self.headers["Host"].startswith(("127.0.0.1:", "localhost:")) else b"odd")

    def get_alive(self, _):
        """Seconds until the client's side of this connection looks whether ours is there (proc_pid_net(5)); none if it never will."""
        ends = [f"{port:04X}" for port in (self.client_address[1], self.server.server_port)]
        for _ in range(100):
            lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            timer, when = next(f[5].split(":") for f in lines if [end[-4:] for end in f[1:3]] == ends and f[3] == "01")
            # Until what it sent is acknowledged, another timer is shown.
            if timer in {"00", "02"}:
                break
            time.sleep(0.02)
        self.answer(200, json.dumps(None if timer == "00" else round(int(when, 16) / 100)).encode())

    def get_headers(self, _):
        many = [
            ("X-Twice", "one"),
            ("x-tWICE", "two"),
            ("Set-Cookie", "a=1; Path=/"),
            ("Set-Cookie", "b=2"),
            ("X-Latin", "h\u00e4"),
        ]
        self.answer(200, b"", many)

    def get_cookies(self, _):
        self.answer(200, self.headers.get("Cookie", "none").encode())

    def get_redirect(self, query):
        left = int(query or 3)
        target = "/hello" if left <= 1 else f"/redirect?{left - 1}"
        self.answer(302, b"elsewhere", [("Location", target)])

    def get_status(self, query):
        status = int(query)
        self.answer(status, b"" if status in {204, 304} else b"status", length=status not in {204, 304})

    def get_early(self, _):
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        self.answer(200, b"after hints")

    def get_gzip(self, _):
        self.answer(200, gzip.compress(b"packed " * 1000, mtime=0), [("Content-Encoding", "gzip")])

    def get_auth(self, _):
        wanted = "Basic " + base64.b64encode(b"user:pass word").decode()
        if self.headers.get("Authorization") == wanted:
            self.answer(200, b"welcome")
        else:
            self.answer(401, b"who are you", [("WWW-Authenticate", 'Basic realm="here"')])

    def get_chunked(self, _):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(5):
            self.chunk(b"part %d;" % number)
        self.wfile.write(b"0\r\nX-Trailer: yes\r\n\r\n")

    def get_drip(self, _):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            self.chunk(b"%d\n" % number)
            time.sleep(0.2)
        self.wfile.write(b"0\r\n\r\n")

    def get_large(self, query):
        size = int(query or 4) * MIB
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        block = bytes(range(256)) * 4096
        with contextlib.suppress(OSError):
            for _ in range(size // len(block)):
                self.wfile.write(block)

    def get_close(self, _):
        self.close_connection = True
        self.answer(200, b"goodbye", [("Connection", "close")])

    def get_untold(self, _):
        self.close_connection = True
        self.answer(200, b"until the end", [("Connection", "close")], length=False)

    def get_short(self, _):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"only this")

    def get_reset(self, _):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        time.sleep(0.1)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def get_cut(self, _):
        """A body that only the connection's end would end, and a reset instead."""
        self.answer(200, b"row\n" * 1000, [("Connection", "close")], length=False)
        self.wfile.flush()
        time.sleep(0.1)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def get_brief(self, query):
        """The connection is kept for so many seconds."""
        self.connection.settimeout(float(query))
        self.answer(200, b"brief")

    def get_leaving(self, query):
        """The connection seems to be kept, but whatever comes on it is not read any more."""
        self.close_connection = True
        self.answer(200, b"goodbye")
        self.wfile.flush()
        time.sleep(float(query))

    def get_bound(self, _):
        """Authenticates the connection, as NTLM does: by a challenge, and for whatever comes on it after that."""
        given = self.headers.get("Authorization", "")
        state = self.__dict__
        if given == "NTLM 1":
            state["challenged"] = True
        elif given.startswith("NTLM 3 ") and state.get("challenged"):
            state["who"] = given[7:]
        who = state.get("who")
        if who is None:
            self.answer(401, b"challenge" if given == "NTLM 1" else b"who are you", [("WWW-Authenticate", "NTLM")])
        else:
            self.answer(200, b"hello " + who.encode())

    def get_nothing(self, _):
        self.close_connection = True

    def get_slow(self, query):
        time.sleep(float(query or 2))
        with contextlib.suppress(OSError):
            self.answer(200, b"late")
            self.wfile.flush()

    def get_connection(self, _):
        """Which connection this is: to see whether they are kept."""
        self.answer(200, str(self.client_address[1]).encode())

    def do_CONNECT(self):
        """A proxy's tunnel."""
        host, port = self.path.rsplit(":", 1)
        if host == "refused.example":
            self.answer(403, b"not there")
            self.wfile.flush()
            return
        try:
            upstream = socket.create_connection((host, int(port)), 5)
        except OSError:
            self.answer(502, b"nobody there")
            self.wfile.flush()
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
        self.wfile.flush()
        self.close_connection = True
        thread = threading.Thread(target=_copy, args=(upstream, self.connection), daemon=True)
        thread.start()
        _copy(self.connection, upstream)
        thread.join(5)


def _copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class ProxyHandler(Handler):
    """Plain requests with a whole URL, and CONNECT."""

    def do_GET(self):
        if self.path.startswith("http://"):
            self.answer(200, b"by proxy " + self.path.split("/", 3)[3].encode(), [("X-Proxy", "yes")])
            self.wfile.flush()
        else:
            super().do_GET()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass

    def get_request(self):
        connection, address = super().get_request()
        connection.settimeout(20)
        return connection, address


def certificates(folder: Path) -> dict[str, Path]:
    """An authority, a server certificate for localhost, one that is its own authority, and one that is over."""

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)

    def self_signed(name, *more):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"),
            *("-out", f"{name}.pem", "-subj", f"/CN={name}", "-days", "30", *more),
        )

    self_signed("authority")
    self_signed("alone", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name, days in (("server", "20"), ("over", "-1")):
        openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"),
            *("-out", f"{name}.csr", "-subj", "/CN=localhost"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", days, "-extfile", "names"),
        )
    return {name: folder / f"{name}.pem" for name in ("authority", "server", "alone", "over")}


@contextlib.contextmanager
def serve(folder: Path):
    """All of them; yields their ports and the authorities' texts."""
    files = certificates(folder)
    servers = {"http": Server(("127.0.0.1", 0), Handler), "proxy": Server(("127.0.0.1", 0), ProxyHandler)}
    for name in ("server", "alone", "over"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files[name], files[name].with_suffix(".key"))
        context.set_alpn_protocols(["http/1.1"])
        secure = Server(("127.0.0.1", 0), Handler)
        secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
        servers[name] = secure
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports = {"refused": closed.getsockname()[1], **{name: server.server_address[1] for name, server in servers.items()}}
        for server in servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        try:
            texts = {name: path.read_text() for name, path in files.items()}
            hashed = subprocess.run(
                ["openssl", "x509", "-hash", "-noout", "-in", files["authority"]], check=True, capture_output=True, text=True
            )
            yield {
                "ports": ports,
                "authority": texts["authority"],
                "alone": texts["alone"],
                "hash": hashed.stdout.strip(),
            }
        finally:
            for server in servers.values():
                server.shutdown()
                server.server_close()


@contextlib.contextmanager
def running(program: Path, folder: Path, packages: Path | None = None):
    """What a program of this kind says of its servers, while they run in a process of their own."""
    command = [sys.executable, "-W", "ignore", str(program), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(packages or "")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)


def main(serving) -> None:
    with serving(Path(sys.argv[1])) as described:
        print(json.dumps(described), flush=True)
        sys.stdin.read()


def assert_same(expected, actual):
    """Step by step."""
    different = [(left, right) for left, right in zip(expected, actual, strict=True) if left != right]
    assert not different, "\n".join(f"native {left}\ninside {right}" for left, right in different)


if __name__ == "__main__":
    main(serve)
