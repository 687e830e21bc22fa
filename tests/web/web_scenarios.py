"""One handler, run with real sockets on the host and over the backend in an instance; see test_web.py.

An event names a scenario and the servers; the result is the described outcome of each step, exceptions included.
"""

import http.client
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import ssl
import tempfile
import threading
import time
import urllib.error
import urllib.request

MIB = 1 << 20
_VOLATILE = re.compile(r"0x[0-9a-f]{6,}|_ssl\.c:\d+|127\.0\.0\.1:\d+|localhost:\d+|(?<=port=)\d+|/tmp/\S+")


def text(value):
    return _VOLATILE.sub("<>", str(value))


def describe(value):
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (bytes, bytearray)):
        return {
            "bytes": type(value).__name__,
            "length": len(value),
            "start": bytes(value[:80]).decode("latin-1"),
            "sum": sum(value),
        }
    if isinstance(value, BaseException):
        chain = []
        while value is not None:
            names = [base.__qualname__ for base in type(value).__mro__]
            chain.append([names, text(value), getattr(value, "errno", None), getattr(value, "verify_code", None)])
            value = value.__cause__ or value.__context__
        return {"raised": chain}
    if isinstance(value, dict):
        return [[describe(k), describe(v)] for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    return type(value).__name__


class Steps:
    def __init__(self, event):
        self.log = []
        ports = event["ports"]
        self.base = f"http://127.0.0.1:{ports['http']}"
        self.secure = f"https://localhost:{ports['server']}"
        self.alone = f"https://localhost:{ports['alone']}"
        self.over = f"https://localhost:{ports['over']}"
        self.proxy = f"http://127.0.0.1:{ports['proxy']}"
        self.refused = f"http://127.0.0.1:{ports['refused']}"
        self.ports = ports
        self.authority = event["authority"]
        self.files = tempfile.TemporaryDirectory()
        self.bundle = f"{self.files.name}/authority.pem"
        with open(self.bundle, "w") as file:
            file.write(self.authority)
        self.folder = f"{self.files.name}/authorities"
        os.mkdir(self.folder)
        with open(f"{self.folder}/{event['hash']}.0", "w") as file:
            file.write(self.authority)
        self.itself = f"{self.files.name}/alone.pem"
        with open(self.itself, "w") as file:
            file.write(event["alone"])

    def __call__(self, name, call, *args, **kwargs):
        if "STEPS" in os.environ:
            print(name, flush=True)
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            self.log.append([name, describe(error)])
            return None
        self.log.append([name, describe(value)])
        return value


def headers_of(pairs):
    return [[name, value] for name, value in pairs if name.lower() not in {"date", "server"}]


def http_client(step):
    port = step.ports["http"]

    def get(path, method="GET", body=None, headers=None, conn=None, **options):
        own = conn or http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        own.request(method, path, body, headers or {}, **options)
        answer = own.getresponse()
        data = answer.read()
        result = [answer.status, answer.reason, answer.version, headers_of(answer.getheaders()), data, answer.will_close]
        if conn is None:
            own.close()
        return result

    for path in ("hello", "headers", "echo", "chunked", "early", "gzip", "close", "untold", "redirect", "missing", "host"):
        step(path, get, "/" + path)
    for status in (204, 304, 404, 500):
        step(f"status {status}", get, f"/status?{status}")
    step("head", get, "/large", "HEAD")
    step("post", get, "/post", "POST", b"x" * 1000)
    step("post text", get, "/post", "POST", "t\u00e4xt")
    step("post file", get, "/post", "POST", io.BytesIO(b"f" * 70000))
    step("post parts", get, "/post", "POST", (b"p" * n for n in (1, 100, 10000)), {"X-Own-CASE": "Kept"}, encode_chunked=True)
    step("put large", get, "/put", "PUT", bytes(3 * MIB))
    step("expect", get, "/post", "POST", b"abc", {"Expect": "100-continue"})
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for turn in range(3):
        step(f"kept {turn}", get, "/hello", conn=conn)
    step("kept large", get, "/large?2", conn=conn)
    step("after large", get, "/hello", conn=conn)
    step("socket", lambda: [conn.sock.gettimeout(), conn.sock.getpeername()[0], conn.sock.family, conn.sock.getsockopt(1, 4)])
    conn.close()
    step("closed", get, "/hello", conn=conn)
    conn.close()
    step("short", get, "/short")
    step("reset", get, "/reset")
    step("nothing", get, "/nothing")
    step("name", lambda: http.client.HTTPConnection("no-such-host.invalid", timeout=10).request("GET", "/"))
    step("refused", lambda: http.client.HTTPConnection("127.0.0.1", step.ports["refused"], timeout=10).request("GET", "/"))

    def slow():
        own = http.client.HTTPConnection("127.0.0.1", port, timeout=0.3)
        own.request("GET", "/slow?3")
        started = time.monotonic()
        try:
            own.getresponse()
        finally:
            step.log.append(["waited", 0.2 < time.monotonic() - started < 2.5])
            own.close()

    step("slow", slow)

    def drip():
        own = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        own.request("GET", "/drip")
        answer = own.getresponse()
        pieces = []
        while piece := answer.read1(100):
            pieces.append(piece)
        return pieces

    step("drip", drip)

    def tunnel(host, target):
        own = http.client.HTTPSConnection(
            "127.0.0.1", step.ports["proxy"], timeout=10, context=ssl.create_default_context(cafile=step.bundle)
        )
        own.set_tunnel(host, target)
        own.request("GET", "/hello")
        return own.getresponse().read()

    step("tunnel", tunnel, "localhost", step.ports["server"])
    step("tunnel refused", tunnel, "refused.example", 443)


def tls(step):
    def get(port, context, host="localhost", path="/hello"):
        own = http.client.HTTPSConnection(host, port, timeout=10, context=context)
        own.request("GET", path)
        data = own.getresponse().read()
        sock = own.sock
        own.close()
        return data, sock

    def trusting(**options):
        return ssl.create_default_context(**options)

    ports = step.ports
    own = trusting(cafile=step.bundle)
    step("good", lambda: get(ports["server"], own)[0])
    step("again", lambda: get(ports["server"], own)[0])
    step("address", lambda: get(ports["server"], own, "127.0.0.1")[0])
    step("large", lambda: get(ports["server"], own, path="/large?3")[0])
    step("bytes of an authority", lambda: get(ports["server"], trusting(cadata=step.authority))[0])
    step("unknown", lambda: get(ports["server"], trusting()))
    step("alone", lambda: get(ports["alone"], own))
    step("alone trusted", lambda: get(ports["alone"], trusting(cafile=step.itself))[0])
    step("over", lambda: get(ports["over"], own))
    step("not tls", lambda: get(ports["http"], own))
    step("refused", lambda: get(ports["refused"], own))
    anything = ssl._create_unverified_context()
    step("unverified", lambda: get(ports["alone"], anything)[0])
    nameless = trusting(cafile=step.bundle)
    nameless.check_hostname = False
    step("other name unchecked", lambda: get(ports["server"], nameless, "127.0.0.1")[0])

    def facts():
        conn = http.client.HTTPSConnection("localhost", ports["server"], timeout=10, context=own)
        conn.connect()
        sock = conn.sock
        conn.request("GET", "/hello")
        conn.getresponse().read()
        subject = sock.getpeercert()
        result = [sock.version(), sock.cipher(), sock.selected_alpn_protocol(), sorted(subject), subject["subjectAltName"]]
        result += [len(sock.getpeercert(binary_form=True)) > 200, sock.server_hostname]
        conn.close()
        return result

    step("facts", facts)

    def old():
        context = trusting(cafile=step.bundle)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        conn = http.client.HTTPSConnection("localhost", ports["server"], timeout=10, context=context)
        conn.connect()
        return conn.sock.version(), conn.sock.cipher()

    step("tls 1.2", old)


def urllib_request(step):
    def get(url, data=None, opener=None, **options):
        call = opener.open if opener else urllib.request.urlopen
        with call(url, data, timeout=10, **options) as answer:
            return [answer.status, answer.url, headers_of(answer.getheaders()), answer.read()]

    step("hello", get, step.base + "/hello")
    step("redirect", get, step.base + "/redirect")
    step("post", get, step.base + "/post", b"data")
    step("missing", get, step.base + "/missing")
    step("secure", get, step.secure + "/hello", context=ssl.create_default_context(cafile=step.bundle))
    step("unknown authority", get, step.secure + "/hello")
    step("refused", get, step.refused + "/hello")
    step("name", get, "http://no-such-host.invalid/")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    step("sets cookies", get, step.base + "/headers", opener=opener)
    step("sends cookies", get, step.base + "/cookies", opener=opener)
    by_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({"http": step.proxy}))
    step("proxy", get, "http://elsewhere.example/path", opener=by_proxy)


def requests_(step):
    import requests

    def show(answer):
        return [
            answer.status_code,
            answer.reason,
            answer.url,
            headers_of(answer.headers.items()),
            answer.content,
            len(answer.history),
        ]

    def get(path, base=step.base, method="GET", session=requests, **options):
        return show(session.request(method, base + path, timeout=options.pop("timeout", 10), **options))

    for path in ("/hello", "/headers", "/echo", "/chunked", "/gzip", "/redirect", "/untold", "/missing", "/early"):
        step(path, get, path)
    for status in (204, 304, 503):
        step(f"status {status}", get, f"/status?{status}")
    step("not followed", get, "/redirect", allow_redirects=False)
    step("endless", get, "/redirect?40")
    step("head", get, "/large", method="HEAD")
    step("json", get, "/post", method="POST", json={"a": [1, "\u00e4"]})
    step("form", get, "/post", method="POST", data={"a": "1", "b": "two words"})
    step("generator", get, "/post", method="POST", data=(b"g" * n for n in (10, 1000, 100000)))
    step("file", get, "/put", method="PUT", data=io.BytesIO(b"z" * MIB))
    step("query", get, "/echo", params={"q": "a b", "\u00e4": "\u00fc"})
    step("auth", get, "/auth", auth=("user", "pass word"))
    step("no auth", get, "/auth")
    with requests.Session() as session:
        step("cookies set", get, "/headers", session=session)
        step("cookies sent", get, "/cookies", session=session)
        step("same connection", lambda: len({session.get(step.base + "/connection", timeout=10).text for _ in range(5)}))

        def streamed():
            with session.get(step.base + "/large?4", stream=True, timeout=10) as answer:
                return [len(block) for block in answer.iter_content(MIB)]

        def stopped():
            with session.get(step.base + "/large?64", stream=True, timeout=10) as answer:
                return len(next(answer.iter_content(1000)))

        step("streamed", streamed)
        step("stopped", stopped)
        step("after stopping", get, "/hello", session=session)
        step("lines", lambda: list(session.get(step.base + "/drip", stream=True, timeout=10).iter_lines()))
        step("raw", lambda: session.get(step.base + "/gzip", stream=True, timeout=10).raw.read(10))
    step("secure", get, "/hello", step.secure, verify=step.bundle)
    step("unknown authority", get, "/hello", step.secure)
    step("unverified", get, "/hello", step.alone, verify=False)
    step("over", get, "/hello", step.over, verify=step.bundle)
    step("short", get, "/short")
    step("reset", get, "/reset")
    step("nothing", get, "/nothing")
    step("slow", get, "/slow?3", timeout=0.3)
    step("connect timeout tuple", get, "/slow?3", timeout=(5, 0.3))
    step("refused", get, "/hello", step.refused)
    step("name", get, "/", "http://no-such-host.invalid")
    step("bad url", get, "/", "http://.example")
    proxies = {"http": step.proxy, "https": step.proxy}
    step("proxy", get, "/path", "http://elsewhere.example", proxies=proxies)
    step("tunnel", get, "/hello", step.secure, verify=step.bundle, proxies=proxies)
    step("tunnel refused", get, "/", "https://refused.example", proxies=proxies)

    def threads():
        results = []

        def work():
            with requests.Session() as own:
                results.extend(own.get(step.base + "/hello", timeout=20).text for _ in range(5))

        running = [threading.Thread(target=work) for _ in range(8)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(30)
        return len(results), set(results) == {"hello"}

    step("threads", threads)


def urllib3_(step):
    import urllib3
    from urllib3.util import Retry

    pool = urllib3.PoolManager(retries=False, timeout=10.0)

    def show(answer):
        return [answer.status, answer.reason, headers_of(answer.headers.items()), answer.data, answer.version]

    for path in ("/hello", "/headers", "/chunked", "/gzip", "/untold", "/early", "/status?204"):
        step(path, lambda path=path: show(pool.request("GET", step.base + path)))
    step(
        "retries",
        lambda: show(urllib3.PoolManager().request("GET", step.base + "/status?503", retries=Retry(2, status_forcelist=[503]))),
    )
    step("chunks", lambda: list(pool.request("GET", step.base + "/chunked", preload_content=False).stream()))
    step("read chunked", lambda: list(pool.request("GET", step.base + "/chunked", preload_content=False).read_chunked()))
    step("upload", lambda: show(pool.request("PUT", step.base + "/put", body=bytes(2 * MIB))))
    step("upload parts", lambda: show(pool.request("PUT", step.base + "/put", body=iter([b"a", b"bc"]))))
    step("fields", lambda: pool.request("POST", step.base + "/post", fields={"f": ("n.txt", b"data")}).status)
    step("short", lambda: show(pool.request("GET", step.base + "/short")))
    step("slow", lambda: show(pool.request("GET", step.base + "/slow?3", timeout=0.3)))
    step("refused", lambda: show(pool.request("GET", step.refused)))
    trusting = urllib3.PoolManager(ca_certs=step.bundle, retries=False, timeout=10.0)
    step("secure", lambda: show(trusting.request("GET", step.secure + "/hello")))
    step("unknown", lambda: show(pool.request("GET", step.secure + "/hello")))
    step("proxy", lambda: show(urllib3.ProxyManager(step.proxy, retries=False).request("GET", "http://elsewhere.example/p")))
    step(
        "tunnel",
        lambda: show(
            urllib3.ProxyManager(step.proxy, ca_certs=step.bundle, retries=False).request("GET", step.secure + "/hello")
        ),
    )


def httpx_(step):
    import httpx

    def show(answer):
        version = answer.http_version
        return [
            answer.status_code,
            answer.reason_phrase,
            [[n.decode(), v.decode("latin-1")] for n, v in answer.headers.raw if n not in {b"Date", b"Server"}],
            answer.content,
            version,
        ]

    client = httpx.Client(timeout=10.0, trust_env=False)
    for path in ("/hello", "/headers", "/chunked", "/gzip", "/untold", "/early", "/status?204", "/missing", "/redirect"):
        step(path, lambda path=path: show(client.get(step.base + path)))
    step("followed", lambda: show(client.get(step.base + "/redirect", follow_redirects=True)))
    step("post", lambda: show(client.post(step.base + "/post", json={"a": 1})))
    step("parts", lambda: show(client.post(step.base + "/post", content=(b"c" * n for n in (5, 5000)))))
    step("large upload", lambda: show(client.put(step.base + "/put", content=bytes(2 * MIB))))

    def streamed():
        with client.stream("GET", step.base + "/large?4") as answer:
            return sum(len(block) for block in answer.iter_bytes())

    def stopped():
        with client.stream("GET", step.base + "/large?64") as answer:
            return len(next(answer.iter_bytes(1000)))

    step("streamed", streamed)
    step("stopped", stopped)
    step("after", lambda: show(client.get(step.base + "/hello")))
    trusting = httpx.Client(verify=ssl.create_default_context(cafile=step.bundle), trust_env=False, timeout=10.0)
    step("secure", lambda: show(trusting.get(step.secure + "/hello")))
    step("unknown", lambda: show(client.get(step.secure + "/hello")))
    step("alone", lambda: show(trusting.get(step.alone + "/hello")))
    step("unverified", lambda: show(httpx.Client(verify=False, trust_env=False).get(step.alone + "/hello")))
    step("short", lambda: show(client.get(step.base + "/short")))
    step("nothing", lambda: show(client.get(step.base + "/nothing")))
    step("slow", lambda: show(client.get(step.base + "/slow?3", timeout=0.3)))
    step("refused", lambda: show(client.get(step.refused)))
    step("name", lambda: show(client.get("http://no-such-host.invalid/")))
    proxied = httpx.Client(proxy=step.proxy, verify=ssl.create_default_context(cafile=step.bundle), trust_env=False)
    step("proxy", lambda: show(proxied.get("http://elsewhere.example/p")))
    step("tunnel", lambda: show(proxied.get(step.secure + "/hello")))


def options(step):
    """What a client asks of its sockets reaches the connection that is used: the server sees when it is probed."""
    import httpx
    import requests
    import urllib3
    from urllib3.connection import HTTPConnection

    def kept(seconds, *more):
        return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds), *more]

    def when(text):
        seconds = json.loads(text)
        return seconds and round(seconds, -2)

    def pooled(asked):
        with urllib3.PoolManager(socket_options=asked, retries=False) as pool:
            return [when(pool.request("GET", step.base + "/alive").data) for _ in range(2)]

    usual = HTTPConnection.default_socket_options
    for name, asked in {
        "usual": usual,
        "nothing": None,
        "none": [],
        "kept": kept(1000),
        "kept, longer": [*usual, *kept(3000)],
        "kept, then not": kept(1000, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)),
        "too long": kept(1 << 20),
        "no such value": [(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1000)],
        "bytes": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, b"\1\0\0\0"), *kept(2000)],
        "no effect on it": [(socket.SOL_SOCKET, socket.SO_PRIORITY, 1)],
    }.items():
        step(name, pooled, asked)

    class Kept(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args, **kwargs):
            super().init_poolmanager(*args, socket_options=kept(1000), **kwargs)

    def session(base, **given):
        with requests.Session() as session:
            session.mount(base, Kept())
            answer = session.get(base + "/alive", timeout=10, **given)
            return when(answer.text)

    step("requests", session, step.base)
    step("requests, secure", session, step.secure, verify=step.bundle)
    step("requests, without", lambda: when(requests.get(step.base + "/alive", timeout=10).text))

    def client(asked, base, **given):
        transport = httpx.HTTPTransport(socket_options=asked, **given)
        with httpx.Client(transport=transport, trust_env=False) as client:
            return [when(client.get(base + "/alive").text) for _ in range(2)]

    step("httpx", client, kept(1000), step.base)
    step("httpx, without", client, [], step.base)
    step("httpx, wrong", client, kept(0), step.base)
    secure = ssl.create_default_context(cafile=step.bundle)
    step("httpx, secure", client, kept(3000), step.secure, verify=secure)

    def shown(asked):
        made = urllib3.connection.HTTPConnection("127.0.0.1", step.ports["http"], socket_options=asked)
        made.connect()
        names = [socket.TCP_NODELAY, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
        values = [made.sock.getsockopt(socket.IPPROTO_TCP, name) for name in names]
        values += [
            made.sock.getsockopt(socket.SOL_SOCKET, name) for name in (socket.SO_KEEPALIVE, socket.SO_TYPE, socket.SO_ERROR)
        ]
        values.append(made.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4))
        made.close()
        return values

    step("shown", shown, kept(600, (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)))
    step("shown, usual", shown, usual)
    step("shown, none", shown, [])

    def late():
        made = http.client.HTTPConnection("127.0.0.1", step.ports["http"])
        made.connect()
        for option in kept(1000):
            made.sock.setsockopt(*option)
        found = []
        for seconds in (1000, 2000):
            made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
            made.request("GET", "/alive")
            found.append(when(made.getresponse().read()))
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0)

    step("late", late)


def trust(step):
    """Authorities that lie in a folder."""
    import httpx
    import requests
    import urllib3

    url = step.secure + "/hello"

    def get(context):
        with urllib.request.urlopen(url, context=context, timeout=10) as answer:
            return answer.read()

    def named():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(capath=step.folder.encode())
        return get(context)

    step("folder", lambda: get(ssl.create_default_context(capath=step.folder)))
    step("folder by name", named)
    step("no such folder", lambda: get(ssl.create_default_context(capath=step.files.name)))
    step("requests", lambda: requests.get(url, verify=step.folder, timeout=10).text)
    step("urllib3", lambda: urllib3.PoolManager(ca_cert_dir=step.folder, retries=False).request("GET", url).data)
    os.environ["SSL_CERT_DIR"] = step.folder
    step("environment", lambda: get(None))
    step("environment, httpx", lambda: httpx.get(url, timeout=10).text)
    del os.environ["SSL_CERT_DIR"]
    step("for a server", lambda: get(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))


def flags(step):
    """What is verified beyond chains and names."""

    def get(flags):
        context = ssl.create_default_context(cafile=step.bundle)
        context.verify_flags |= flags
        with urllib.request.urlopen(step.secure + "/hello", context=context, timeout=10) as answer:
            return answer.read()

    step("usual", get, ssl.VERIFY_X509_TRUSTED_FIRST)
    step("revoked", get, ssl.VERIFY_CRL_CHECK_LEAF)
    step("strict", get, ssl.VERIFY_X509_STRICT)


def endings(step):
    """Connections that end: in the middle of an answer, or while they are kept."""
    import httpx
    import requests

    def with_requests():
        answer = requests.get(step.base + "/cut", stream=True, timeout=10)
        time.sleep(0.3)
        return len(answer.content)

    def with_http_client():
        own = http.client.HTTPConnection("127.0.0.1", step.ports["http"], timeout=10)
        own.request("GET", "/cut")
        answer = own.getresponse()
        time.sleep(0.3)
        return len(answer.read())

    def with_httpx():
        with httpx.stream("GET", step.base + "/cut", timeout=10, trust_env=False) as answer:
            time.sleep(0.3)
            return len(answer.read())

    for call in (with_requests, with_http_client, with_httpx):
        step(call.__name__, call)

    def twice(client, base, **options):
        texts = []
        for _ in range(2):
            texts.append(client.get(base + "/brief?0.2", **options).text)
            time.sleep(0.6)
        return texts

    proxies = {"https": step.proxy}
    step("idle", twice, requests.Session(), step.base)
    step("idle, secure", twice, requests.Session(), step.secure, verify=step.bundle)
    step("idle, in a tunnel", twice, requests.Session(), step.secure, verify=step.bundle, proxies=proxies)
    trusting = ssl.create_default_context(cafile=step.bundle)
    step("idle, httpx", twice, httpx.Client(proxy=step.proxy, verify=trusting, trust_env=False), step.secure)

    def fresh():
        statuses = set()
        for _ in range(5):
            requests.get(step.base + "/leaving?0.1", timeout=10)
            statuses.add(requests.post(step.base + "/post", data=b"x" * 1000, timeout=10).status_code)
        return sorted(statuses)

    step("behind one that ends", fresh)


def bound(step):
    """A connection that was authenticated is nobody else's."""
    import requests

    url = step.base + "/bound"

    def ask(session, credentials=None):
        headers = {"Authorization": credentials} if credentials else {}
        answer = session.get(url, headers=headers, timeout=10)
        return [answer.status_code, answer.text]

    for _ in range(2):
        with requests.Session() as own, requests.Session() as other:
            step("asks", ask, own, "NTLM 1")
            step("other, meanwhile", lambda: other.get(step.base + "/hello", timeout=10).text)
            step("answers", ask, own, "NTLM 3 alice")
            step("goes on", ask, own)
            step("other", ask, other)
        step("none", ask, requests.Session())


def interrupted(step):
    """A signal's handler that raises ends a wait, and loses nothing."""

    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    def get(then, timeout=10.0):
        own = http.client.HTTPConnection("127.0.0.1", step.ports["http"], timeout=10)
        own.request("GET", "/slow?1")
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            own.sock.recv(10)
        except Alarm:
            pass
        time.sleep(then)
        own.sock.settimeout(timeout)
        try:
            first = own.sock.recv(8, socket.MSG_PEEK)
        except TimeoutError as error:
            own.sock.settimeout(10)
            first = str(error)
        return first, own.getresponse().read()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        step("before it comes", get, 0)
        step("once it has come", get, 1)
        step("too early", get, 0, 0.2)
    finally:
        signal.signal(signal.SIGALRM, before)


def sockets(step):
    """What else a client may do with its socket."""
    port = step.ports["http"]
    ask = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"

    def connected(host="127.0.0.1", port=port, timeout=10, context=None):
        make = http.client.HTTPConnection
        own = make(host, port, timeout=timeout) if context is None else http.client.HTTPSConnection(host, port, context=context)
        own.connect()
        return own.sock

    def answered(how, *args):
        sock = connected()
        sock.sendall(ask)
        time.sleep(0.2)
        return how(sock, *args)

    for name, given in {"text": str(port), "beyond": port + (1 << 16), "negative": -1, "no": "no-such-service"}.items():
        step(f"port, {name}", lambda given=given: connected(port=given).getpeername()[1] == port)
    for host in ("", "a" * 64, "a..b"):
        step(f"host {host[:4]!r}", connected, host)
    for timeout in (-1, "3", b"3"):
        step(f"timeout {timeout!r}", connected, timeout=timeout)
    step("peek", answered, lambda sock: [sock.recv(4, socket.MSG_PEEK), sock.recv(8)])
    step("from", answered, lambda sock: sock.recvfrom(8))
    step("from, into", answered, lambda sock: [sock.recvfrom_into(bytearray(8)), sock.recv(4)])
    step("into nothing", lambda: answered(lambda sock: sock.recv_into(bytearray(0))))
    step("into too little", answered, lambda sock: sock.recv_into(bytearray(4), 8))
    step("nothing", answered, lambda sock: sock.recv(0))
    step("less than nothing", answered, lambda sock: sock.recv(-1))
    step("not waiting", lambda: connected(timeout=None).recv(8, socket.MSG_DONTWAIT))
    step("not waiting, with a time-out", lambda: connected(timeout=0.3).recv(8, socket.MSG_DONTWAIT))

    def sent(how, *args):
        sock = connected()
        return [how(sock, *args), sock.recv(15)]

    step("message", sent, lambda sock: sock.sendmsg([ask[:5], memoryview(ask)[5:]]))
    step("file", sent, lambda sock: sock.sendfile(io.BytesIO(b"xx" + ask), 2))
    context = ssl.create_default_context(cafile=step.bundle)
    for name, call in {
        "flags": lambda sock: sock.recv(4, socket.MSG_PEEK),
        "from": lambda sock: sock.recvfrom(4),
        "message": lambda sock: sock.sendmsg([b"x"]),
    }.items():
        step(f"secure, {name}", lambda call=call: call(connected("localhost", step.ports["server"], context=context)))


def forked(step):
    """A process made by fork has sockets of its own."""
    import requests

    session = requests.Session()

    def all_of_them():
        return [
            requests.get(step.base + "/hello", timeout=10).text,
            session.get(step.base + "/hello", timeout=10).text,
            requests.get(step.secure + "/hello", timeout=10, verify=step.bundle).text,
            urllib.request.urlopen(step.base + "/hello", timeout=10).read().decode(),
        ]

    def child(pipe):
        step("child", all_of_them)
        pipe.send(step.log[-1])

    step("before", all_of_them)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    step("in a child", lambda: ours.recv() if ours.poll(20) else None)
    process.join(10)
    step("after", all_of_them)


# Those that need sockets of the instance's own.
WITH_SOCKETS = {"flags", "forked"}
SCENARIOS = {
    "http.client": http_client,
    "tls": tls,
    "urllib.request": urllib_request,
    "requests": requests_,
    "urllib3": urllib3_,
    "httpx": httpx_,
    "options": options,
    "trust": trust,
    "flags": flags,
    "endings": endings,
    "bound": bound,
    "interrupted": interrupted,
    "sockets": sockets,
    "forked": forked,
}


def handler(event, context):
    step = Steps(event)
    SCENARIOS[event["scenario"]](step)
    return step.log
