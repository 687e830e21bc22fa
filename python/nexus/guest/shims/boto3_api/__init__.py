"""boto3 with its fabric on the host: levels *api* and *http*. Imports botocore; installed before the handler's import."""

from ...device import open_channel
from . import aio, arrow, http, presign, signing
from .prototypes import Prototypes, duplicate


def install(level: str) -> None:
    """Patch botocore and boto3. `level` is `api` or `http`."""
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
