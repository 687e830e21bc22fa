"""Endpoints of AWS services that a node has itself, and the names by which they are asked for."""

from __future__ import annotations

import difflib

from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from nexus.errors import NexusError

_MODEL = "service-2"


def names(service: str) -> list[str]:
    """A service's name for ``boto3.client``, the name that requests are signed with, and its id, which stands in
    ``AWS_ENDPOINT_URL_...``: ``secretsmanager`` and ``secrets-manager``; ``cloudwatch`` and ``monitoring``.

    :raises NexusError: botocore knows no such service.
    """
    loader = Loader()
    try:
        metadata = loader.load_service_model(service, _MODEL)["metadata"]
    except UnknownServiceError as error:
        near = difflib.get_close_matches(service, loader.list_available_services(_MODEL))
        hint = f"did you mean {' or '.join(near)}?" if near else "name it as boto3.client() does, such as dynamodb"
        raise NexusError(f"there is no AWS service {service!r}", hint) from error
    signed = metadata.get("signingName", metadata["endpointPrefix"])
    identity = metadata["serviceId"].lower().replace(" ", "-")
    return list(dict.fromkeys([service, signed, identity]))
