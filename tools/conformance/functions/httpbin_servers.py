"""httpbin with and without TLS, on the host; prints both addresses, and ends with its input."""

from __future__ import annotations

import json
import sys

import httpbin
from pytest_httpbin import serve

if __name__ == "__main__":
    with serve.Server(application=httpbin.app) as plain, serve.SecureServer(application=httpbin.app) as secure:
        print(json.dumps([plain.url, secure.url]), flush=True)
        sys.stdin.read()
