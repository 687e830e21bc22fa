"""Clients made inside a handler are copies of prototypes that lie in the snapshot: 0.2 ms instead of 9.

A prototype is the first client that a session makes for a service and region, with no other argument. A copy is
taken only while session, event handlers and environment are as they were then.
"""

import copy
import os
import weakref
from typing import Any, NamedTuple

import boto3
import boto3.session

_PLAIN_ARGUMENTS = frozenset({"service_name", "region_name"})


class _Prototype(NamedTuple):
    client: Any
    session: weakref.ref[Any]
    handlers: object
    environment: frozenset[tuple[str, str]]


def _environment() -> frozenset[tuple[str, str]]:
    """The variables that making a client depends on. Those of the function's own name, memory and logs are none."""
    return frozenset(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "BOTO_", "HOME")) and not name.startswith("AWS_LAMBDA_")
    )


def _lookup_cache(session: Any) -> object:
    # A new one at every (un)registration: see eligibility.still_holds.
    return session._session.get_component("event_emitter")._emitter._lookup_cache


class Prototypes:
    """The clients to copy from, by session, service and region."""

    def __init__(self) -> None:
        self._original = boto3.session.Session.client
        self._known: dict[tuple[int, str, str | None], _Prototype] = {}
        self._setup = boto3.setup_default_session
        self.session = boto3.session.Session()
        self._default_environment = _environment()

    def client(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        """What `Session.client` does."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        if len(args) == 1 and not (set(given) - {"region_name"}):
            service, region = args[0], given.get("region_name")
        elif not args and "service_name" in given and not (set(given) - _PLAIN_ARGUMENTS):
            service, region = given["service_name"], given.get("region_name")
        else:
            return self._original(session, *args, **kwargs)
        key = (id(session), service, region)
        known = self._known.get(key)
        if (
            known is not None
            and known.session() is session
            and known.handlers is _lookup_cache(session)
            and known.environment == _environment()
        ):
            return duplicate(known.client)
        client = self._original(session, *args, **kwargs)
        if known is not None or not isinstance(service, str):
            return client
        # The caller may change what it gets, so it gets a copy already. A session that goes takes its prototypes along.
        gone = weakref.ref(session, lambda _: self._known.pop(key, None))
        self._known[key] = _Prototype(client, gone, _lookup_cache(session), _environment())
        return duplicate(client)

    def setup_default_session(self, **kwargs: Any) -> None:
        """What `boto3.setup_default_session` does: the first plain one is the session that is ready already."""
        session, self.session = self.session, None
        if kwargs or session is None or self._default_environment != _environment():
            self._setup(**kwargs)
        else:
            boto3.DEFAULT_SESSION = session

    def install(self) -> None:
        """Patch boto3."""

        def client(session: Any, *args: Any, **kwargs: Any) -> Any:
            return self.client(session, *args, **kwargs)

        client.__doc__ = self._original.__doc__
        boto3.session.Session.client = client
        boto3.setup_default_session = self.setup_default_session


def duplicate(client: Any) -> Any:
    """A client that shares everything with `client` but its events, its caches and what refers to these."""
    events = copy.copy(client.meta.events)
    signer = copy.copy(client._request_signer)
    signer._event_emitter = weakref.proxy(events)
    signer._cache = {}
    endpoint = copy.copy(client._endpoint)
    endpoint._event_emitter = events
    _replace(events._emitter._handlers._root, client._request_signer.handler, signer.handler)
    resolver = copy.copy(client._ruleset_resolver)
    if resolver is not None:
        resolver._event_emitter = events
    twin = object.__new__(type(client))
    twin.__dict__.update(client.__dict__)
    twin.meta = copy.copy(client.meta)
    twin.meta.events = events
    twin._request_signer = signer
    twin._endpoint = endpoint
    twin._ruleset_resolver = resolver
    twin._cache = {}
    twin._nexus_origin = client  # some of its event handlers refer to it weakly
    return twin


def _replace(node: dict[str, Any], old: object, new: object) -> None:
    for section in node["values"] or ():
        for at, handler in enumerate(section):
            if handler == old:
                section[at] = new
    for child in node["children"].values():
        _replace(child, old, new)
