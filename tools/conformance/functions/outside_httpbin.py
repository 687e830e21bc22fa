"""pytest-httpbin's fixtures with their servers elsewhere: what requests' tests ask goes over the network of the place."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from pytest_httpbin import certs


@dataclass(frozen=True)
class Outside:
    """A server that somebody else runs, by the attribute that the tests read."""

    url: str


@pytest.fixture(scope="session")
def httpbin() -> Outside:
    """The plain server."""
    return Outside(os.environ["HTTPBIN"])


@pytest.fixture(scope="session")
def httpbin_secure() -> Outside:
    """The one with TLS."""
    return Outside(os.environ["HTTPBIN_SECURE"])


@pytest.fixture
def httpbin_ca_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its authority, as the tests' environment names it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certs.where())
