"""Handlers that misbehave, each in one way; `event["do"]` chooses it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from typing import Any

import boto3


class Peculiar:
    """What JSON cannot carry."""


def raise_error() -> None:
    """Raise an ordinary exception, three frames deep."""

    def inner() -> None:
        message = "the cat is out of the bag"
        raise ValueError(message)

    inner()


def hog(mebibytes: int) -> int:
    """Touch `mebibytes` MiB; return how many were had."""
    blocks = []
    for _ in range(mebibytes):
        block = bytearray(1 << 20)
        block[::4096] = b"x" * 256
        blocks.append(block)
    return len(blocks)


def handler(event: dict[str, Any], _context: object) -> Any:
    """Do what the event asks for."""
    match event["do"]:
        case "nothing":
            return {"pid": os.getpid(), "echo": event.get("echo")}
        case "raise":
            raise_error()
        case "unserialisable":
            return {"thing": Peculiar()}
        case "print":
            line = "x" * 1023 + "\n"
            for _ in range(event["kib"]):
                sys.stdout.write(line)
            return event["kib"]
        case "hog":
            return hog(event["mib"])
        case "sleep":
            time.sleep(event["seconds"])
            return "awake"
        case "spin":
            while True:
                pass
        case "os_exit":
            os._exit(event["status"])
        case "sys_exit":
            sys.exit(event["status"])
        case "segfault":
            ctypes.string_at(0)
        case "get":
            body = boto3.client("s3").get_object(Bucket=event["bucket"], Key=event["key"])["Body"]
            return len(body.read())
        case "big":
            return "y" * event["bytes"]
        case other:
            message = f"unknown: {other}"
            raise LookupError(message)
    return None
