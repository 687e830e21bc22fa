"""Getting ready for the snapshot: what the first event would have to load or set up is done before it."""

import encodings.idna  # noqa: F401 - the first host name would import it
import gc
import importlib.util
import json
import linecache
import os
import sys
import traceback
from contextlib import suppress

from . import faults, logs, marshal, modules
from .context import LambdaContext

with suppress(ImportError):  # an interpreter without it
    import ctypes

# Left at the end of glibc's heap, for a clone's first small pieces (bytes).
_TRIM_PAD = 1 << 16
_REHEARSALS = 12  # CPython specialises a function's bytecode after eight calls


def task_root() -> None:
    """Work in the task root, as on Lambda."""
    if root := os.environ.get("LAMBDA_TASK_ROOT"):
        with suppress(OSError):
            os.chdir(root)


def shims() -> None:
    """Install the SDK shims that `NEXUS_OFFLOAD` asks for; `coupled` asks for none."""
    level = os.environ.get("NEXUS_OFFLOAD", "api")
    if level not in {"api", "http", "coupled"}:
        raise faults.Fault("Runtime.InvalidOffload", f"NEXUS_OFFLOAD is {level!r}: expected api, http or coupled")
    if level == "coupled":
        modules.loaded()
        return
    # Their parts that are loaded late otherwise, too.
    from ..shims import grpc_core, web
    from ..shims.grpc_core import core  # noqa: F401
    from ..shims.web import tls  # noqa: F401

    modules.loaded()
    web.install()
    grpc_core.install()
    if importlib.util.find_spec("botocore") is None:
        return
    from ..shims import boto3_api

    boto3_api.install(level)


def rehearse() -> None:
    """Run an event's path with an event of nobody's, so that its code is loaded, specialised and in the snapshot."""
    for _ in range(_REHEARSALS):
        context = LambdaContext({"request_id": "", "deadline_ms": 0, "function_arn": ""})
        context.get_remaining_time_in_millis()
        marshal.dump(marshal.load('{"a": [1, 2.5, "b", null, true]}'))
        try:
            marshal.dump({1: object()})
        except faults.Fault as fault:
            json.dumps(faults.from_exception(fault))
            faults.format_trace(fault.__traceback__)
            traceback.format_exception(fault)
    linecache.clearcache()
    logs.flush()


def clients() -> None:
    """Have the fast path look at the clients that the function has made."""
    fast_path = sys.modules.get(f"{__package__.rpartition('.')[0]}.shims.boto3_api.api")
    if fast_path is not None:
        fast_path.judge_clients()


def settle() -> None:
    """Leave a heap that a clone's collector has no reason to touch, and without the memory that is free in it.

    What a clone takes from glibc's free memory it faults in page by page, and copies each page to overwrite it. Memory that
    is asked for anew comes with its pages (a megabyte: 32 faults instead of 256), and the snapshot does not hold it.
    """
    gc.collect()
    gc.freeze()
    with suppress(NameError, AttributeError, OSError):  # an interpreter without ctypes, another libc
        ctypes.CDLL(None).malloc_trim(_TRIM_PAD)
