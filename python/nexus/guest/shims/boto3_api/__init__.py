"""boto3 with its fabric on the host: levels *api* and *http*. Imports botocore; installed before the handler's import."""

from ...device import open_channel
from . import http, signing


def install(level: str) -> None:
    """Patch botocore. `level` is `api` or `http`."""
    channel = open_channel()
    signing.install()
    http.install(channel)
    if level == "api":
        from . import api  # noqa: PLC0415

        api.install(channel)
