"""A relay that makes a local store answer as a distant one: ``python -m nexus.node.delay``.

Bytes arrive half the round trip later than they were sent, in each direction; the bandwidth stays what it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path

_PIECE = 1 << 18
# Pieces under way in one direction of a connection: beyond that the sender waits, as on a real line.
_WINDOW = 64


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW)

    async def receive() -> None:
        while True:
            piece = await reader.read(_PIECE)
            await queue.put((loop.time() + delay_s, piece))
            if not piece:
                return

    task = asyncio.create_task(receive())
    try:
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
    finally:
        task.cancel()
        writer.close()


async def _serve(upstream: tuple[str, int], delay_s: float, address_file: Path) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(*upstream)
        except OSError:
            writer.close()
            return
        both = (_pump(reader, other_writer, delay_s), _pump(other_reader, writer, delay_s))
        await asyncio.gather(*both, return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0, limit=4 * _PIECE)
    host, port = server.sockets[0].getsockname()[:2]
    temporary = address_file.with_suffix(".new")
    temporary.write_text(json.dumps({"address": f"{host}:{port}", "pid": os.getpid()}), encoding="utf-8")
    temporary.replace(address_file)
    await server.serve_forever()


def main() -> None:
    """Relay until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT")
    parser.add_argument("--round-trip-ms", type=float, required=True)
    parser.add_argument("--address-file", type=Path, required=True)
    arguments = parser.parse_args()
    host, _, port = arguments.upstream.rpartition(":")
    asyncio.run(_serve((host, int(port)), arguments.round_trip_ms / 2000, arguments.address_file))


if __name__ == "__main__":
    main()
