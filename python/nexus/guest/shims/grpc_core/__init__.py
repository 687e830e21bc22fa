"""gRPC clients with their connections, TLS and HTTP/2 on the host.

The cut is grpcio's core: `grpc._channel` is the real one, and with it every stub, interceptor, future and exception.
What it drives is not the C core (whose threads would run in the guest) but calls of the backend's.
"""

from typing import Any

from ...device import open_channel
from ...imports import when_imported


def install() -> None:
    """Patch grpc._channel when it is imported."""

    def patch(module: Any) -> None:
        from . import core

        module.cygrpc = core.shadow(module.cygrpc, open_channel())

    when_imported("grpc._channel", patch)
