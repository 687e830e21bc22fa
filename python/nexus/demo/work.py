"""The demo's main job: every photograph through the function, and through the same handler in a plain process."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus.errors import NexusError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus.bench.session import Session
    from nexus.packaging.deployment import Package

BUCKET = "photos"
NAME = "thumbnail"
_CHECKER = Path(__file__).with_name("check_worker.py")


@dataclass
class Outcome:
    """What one side made of the photographs.

    :param results: what the handler returned, by photograph.
    :param thumbs: the thumbnails' bytes, by photograph.
    :param latencies_ms: of the calls as the caller saw them, in order; the first one was cold.
    """

    results: dict[str, Any] = field(default_factory=dict)
    thumbs: dict[str, bytes] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)


def upload(s3: Any, photos: list[Path]) -> int:
    """Put the photographs into the store; bytes in all."""
    s3.create_bucket(Bucket=BUCKET)
    for photo in photos:
        s3.put_object(Bucket=BUCKET, Key=photo.name, Body=photo.read_bytes())
    return sum(photo.stat().st_size for photo in photos)


def through_function(bench: Session, photos: list[Path], tick: Callable[[str], None]) -> tuple[Outcome, list[str]]:
    """Invoke the function for every photograph by boto3; its outcome, and what went wrong."""
    client, s3 = bench.node.lambda_client(), bench.node.s3()
    outcome, wrong = Outcome(), []
    for photo in photos:
        payload = json.dumps({"bucket": BUCKET, "key": photo.name}).encode()
        began = time.monotonic_ns()
        response = client.invoke(FunctionName=NAME, Payload=payload)
        content = response["Payload"].read()
        outcome.latencies_ms.append((time.monotonic_ns() - began) / 1e6)
        if "FunctionError" in response:
            wrong.append(f"{photo.name}: the function failed: {content[:500].decode('utf-8', 'replace')}")
        else:
            _keep(outcome, s3, photo.name, json.loads(content))
        tick(photo.name)
    return outcome, wrong


def through_process(bench: Session, package: Package, photos: list[Path]) -> Outcome:
    """The same by the same handler file in a plain process with real boto3, same store."""
    s3, outcome = bench.node.s3(), Outcome()
    with bench.plain(package) as process:
        for photo in photos:
            began = time.monotonic_ns()
            answer = process.call({"bucket": BUCKET, "key": photo.name})
            outcome.latencies_ms.append((time.monotonic_ns() - began) / 1e6)
            _keep(outcome, s3, photo.name, answer.result)
    return outcome


def _keep(outcome: Outcome, s3: Any, name: str, result: Any) -> None:
    outcome.results[name] = result
    thumb = s3.get_object(Bucket=BUCKET, Key=f"thumbs/{name}.jpg")
    outcome.thumbs[name] = thumb["Body"].read()
    # Deleted, so that what the other side leaves there is its own.
    s3.delete_object(Bucket=BUCKET, Key=f"thumbs/{name}.jpg")


def compare(photos: list[Path], function: Outcome, process: Outcome) -> list[str]:
    """Where the two sides differ: results, or bytes of a thumbnail."""
    wrong = []
    for photo in photos:
        name = photo.name
        if name not in function.results:
            continue
        if function.results[name] != process.results[name]:
            wrong.append(f"{name}: the function returned {function.results[name]}, the process {process.results[name]}")
        elif function.thumbs[name] != process.thumbs[name]:
            wrong.append(f"{name}: function and process made different thumbnails")
    return wrong


def decode(package: Package, photos: list[Path], outcome: Outcome, scratch: Path) -> list[str]:
    """Decode every thumbnail and compare it with its photograph; what is wrong."""
    items = []
    for photo in photos:
        result = outcome.results.get(photo.name)
        if not isinstance(result, dict):
            continue
        thumb = scratch / f"{photo.name}.jpg"
        thumb.write_bytes(outcome.thumbs[photo.name])
        size = {"width": result.get("width"), "height": result.get("height")}
        items.append({"name": photo.name, "photo": str(photo), "thumb": str(thumb), **size})
    listing = scratch / "items.json"
    listing.write_text(json.dumps(items), encoding="utf-8")
    checked = subprocess.run(
        [str(package.python.executable), "-B", str(_CHECKER), str(listing)],
        env={"PYTHONPATH": ":".join(str(layer) for layer in package.layers)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if checked.returncode:
        raise NexusError(f"the thumbnails could not be checked ({checked.stderr.strip()[-500:]})")
    return [str(text) for text in json.loads(checked.stdout)]
