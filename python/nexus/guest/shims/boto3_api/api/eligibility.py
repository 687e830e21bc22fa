"""Which clients may take the fast path: those that behave as botocore's S3 client does out of the box.

A client with other configuration, credentials of its own, or event handlers that nobody here knows, is left to real
botocore (level *http*).
"""

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .... import abi

# Handlers that neither change a request nor see an answer: (module, qualified name).
_HARMLESS = frozenset(
    {
        ("s3transfer.utils", "signal_not_transferring"),
        ("s3transfer.utils", "signal_transferring"),
        ("aws_lambda_powertools.shared.user_agent", "_create_feature_function.<locals>.add_powertools_feature"),
        ("aws_lambda_powertools.shared.user_agent", "_add_powertools_feature"),
    }
)
# Configuration that the fast path honours or that does not concern it; the rest has to be as by default.
_FREE = frozenset(
    {
        "region_name",
        "user_agent",
        "user_agent_extra",
        "user_agent_appid",
        "_supplied_user_agent",
        "max_pool_connections",
        "tcp_keepalive",
        "_user_provided_options",
        "response_checksum_validation",
    }
)
_AWS_ENDPOINT = re.compile(r"https://s3(?:\.[a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?")
Fingerprint = frozenset[tuple[str, str, str]]


class Verdict(NamedTuple):
    """What was found out about a client, and by which of its parts one sees that it still holds."""

    lookup_cache: object
    credentials: object
    eligible: bool
    region: str
    endpoint: str | None
    validates: bool


class Reference:
    """An untouched S3 client, for comparison."""

    def __init__(self, client: Any) -> None:
        self.handlers = fingerprint(client)
        self.config = _config(client)
        self.usable = _is_plain(client)

    def judge(self, client: Any) -> Verdict:
        """Look at a client as a whole."""
        emitter = client.meta.events._emitter
        credentials = client._request_signer._credentials
        eligible = (
            self.usable
            and getattr(credentials, "access_key", None) == abi.PLACEHOLDER_KEY_ID
            and client.meta.service_model.service_name == "s3"
            and _config(client) == self.config
            and fingerprint(client) == self.handlers
        )
        region = client.meta.region_name or "us-east-1"
        return Verdict(
            emitter._lookup_cache,
            credentials,
            eligible,
            "us-east-1" if region == "aws-global" else region,
            _endpoint(client.meta.endpoint_url),
            getattr(client.meta.config, "response_checksum_validation", None) == "when_supported",
        )


def still_holds(verdict: Verdict, client: Any) -> bool:
    """Whether neither handlers nor credentials changed since.

    botocore's emitter makes itself a new lookup cache at every (un)registration; copies share it until then.
    """
    return (
        client.meta.events._emitter._lookup_cache is verdict.lookup_cache
        and client._request_signer._credentials is verdict.credentials
    )


def fingerprint(client: Any) -> Fingerprint:
    """Every event handler of a client: (event, module, qualified name), without those known to be harmless."""
    root = client.meta.events._emitter._handlers._root
    return frozenset(entry for entry in _walk(root, "") if entry[1:] not in _HARMLESS)


def _walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    for section in node["values"] or ():
        for handler in section:
            function = getattr(handler, "__func__", handler)
            kind = type(handler)
            module = getattr(function, "__module__", kind.__module__)
            name = getattr(function, "__qualname__", kind.__qualname__)
            yield path, str(module), str(name)
    for chunk, child in node["children"].items():
        yield from _walk(child, f"{path}.{chunk}")


def _config(client: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(client.meta.config).items() if name not in _FREE}


def _is_plain(client: Any) -> bool:
    """Whether the environment configures nothing that the host would have to know."""
    config = client.meta.config
    s3 = config.s3 or {}
    return (
        not (set(s3) - {"addressing_style"})
        and not config.use_dualstack_endpoint
        and not config.use_fips_endpoint
        and not config.proxies
        and config.parameter_validation
        and getattr(config, "request_checksum_calculation", "when_supported") == "when_supported"
        and config.signature_version == "s3v4"
    )


def _endpoint(url: str) -> str | None:
    """None for the endpoint that the host has for S3; a program may name another, in its environment too."""
    own = os.environ.get(abi.S3_ENDPOINT_ENV)
    if own:
        return None if url.rstrip("/") == own.rstrip("/") else url
    return None if _AWS_ENDPOINT.fullmatch(url) else url
