"""boto3 with its fabric on the host: levels *api* and *http*. Imports botocore; installed before the handler's import."""

import os

from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.loaders import create_loader

from ...device import open_channel
from . import aio, arrow, http, presign, signing
from .prototypes import Prototypes, duplicate

_ENDPOINT = "AWS_ENDPOINT_URL_"


def install(level: str) -> None:
    """Patch botocore and boto3. `level` is `api` or `http`."""
    name_endpoints()
    channel = open_channel()
    signing.install()
    presign.install(channel)
    http.install(channel)
    aio.install(channel)
    arrow.install()
    prototypes = Prototypes()
    client = prototypes.client(prototypes.session, "s3")
    prototypes.install()
    if level == "api":
        from . import api

        api.install(channel, duplicate(client))


def name_endpoints() -> None:
    """Give the endpoints that the node names by service (`secretsmanager`) the names that SDKs look for (`SECRETS_MANAGER`)."""
    given = [name for name in os.environ if name.startswith(_ENDPOINT)]
    loader = create_loader()
    for name in given:
        service = name.removeprefix(_ENDPOINT).lower().replace("_", "-")
        if service == "s3":
            continue
        try:
            identity = loader.load_service_model(service, "service-2")["metadata"]["serviceId"]
        except (DataNotFoundError, UnknownServiceError, KeyError):
            continue
        os.environ.setdefault(_ENDPOINT + identity.upper().replace(" ", "_").replace("-", "_"), os.environ[name])
