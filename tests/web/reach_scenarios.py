"""What depends on the instance: connections of before a snapshot, servers inside, the policy, large bodies, keep-alive."""

import http.client
import http.server
import os
import socket
import ssl
import threading

import requests

# At import: the connection is made before the snapshot, and used after the restore.
session = requests.Session()


def _memory_kib():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS:")).split()[1])


def before_snapshot(event):
    """Whether a session of the import's works, and again after it was used."""
    return [session.get(event["base"] + "/hello", timeout=10).text for _ in range(3)]


def server_inside(event):
    """A server of the instance's own, reached by its clients."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"inside")

        def log_message(self, *_):
            pass

    class Six(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    texts = []
    for made, host in (
        (http.server.ThreadingHTTPServer, "127.0.0.1"),
        (Six, "[::1]"),
        (http.server.ThreadingHTTPServer, "[::ffff:127.0.0.1]"),
    ):
        with made(("::1" if made is Six else "127.0.0.1", 0), Hello) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            texts.append(requests.get(f"http://{host}:{server.server_address[1]}/", timeout=10).text)
            server.shutdown()
    return texts


def denied(event):
    """Errors of destinations that the policy does not name."""
    found = []
    for url in ("http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "https://192.168.1.1/"):
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError as error:
            found.append("PermissionError" in repr(error) or "Permission denied" in str(error) or "policy" in str(error))
    return found


def download(event):
    """Bytes of a large body, and how far memory grew (KiB)."""
    before, total, most = _memory_kib(), 0, 0
    with requests.get(f"{event['base']}/large?{event['mib']}", stream=True, timeout=60) as answer:
        for block in answer.iter_content(1 << 20):
            total += len(block)
            most = max(most, _memory_kib())
    return total, most - before


def upload(event):
    """The same, the other way."""
    before, most = _memory_kib(), 0

    def blocks():
        nonlocal most
        for _ in range(event["mib"]):
            yield bytes(1 << 20)
            most = max(most, _memory_kib())

    answer = requests.post(f"{event['base']}/count", data=blocks(), timeout=60)
    return answer.json()["length"], most - before


def connection(event):
    """Which of the server's connections a new client of this instance gets."""
    own = http.client.HTTPConnection("127.0.0.1", event["port"], timeout=10)
    own.request("GET", "/connection")
    port = own.getresponse().read().decode()
    own.close()
    return port


def secure_connection(event):
    """The same with TLS, and with what trust is asked for."""
    context = ssl.create_default_context(cadata=event["authority"]) if event["verify"] else ssl._create_unverified_context()
    own = http.client.HTTPSConnection("localhost", event["port"], timeout=10, context=context)
    own.request("GET", "/connection")
    port = own.getresponse().read().decode()
    own.close()
    return port


def environment(event):
    return sorted(name for name in os.environ if "KEY" in name)


def handler(event, context):
    return globals()[event["scenario"]](event)


if "BASE" in os.environ:
    session.get(os.environ["BASE"] + "/hello", timeout=10).raise_for_status()
