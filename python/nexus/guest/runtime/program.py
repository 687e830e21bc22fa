"""What every instance runs: initialise, take the snapshot, handle events."""

import json
import os
import sys

from .. import abi
from ..device import BackendError, Channel, DeviceUnavailableError, call, open_channel
from ..device.sections import watch
from . import base, faults, hooks, logs, loop, modules, prepare, renewal
from .loader import Handler, load


def initialise(channel: Channel) -> tuple[Handler, list[renewal.Hook]]:
    """Everything up to the snapshot. Raises what the function's own code raises, Fault, and Unsuitable."""
    tracker = renewal.Tracker()
    tracker.start()
    try:
        if base.wanted():
            base.take(channel, tracker)
        else:
            prepare.shims()
            modules.give_back()
        modules.function_first()
        prepare.task_root()
        hooks.install()
        handler = load(os.environ.get("_HANDLER", ""))
        prepare.rehearse()
        hooks.before_snapshot()
        prepare.clients()
    finally:
        tracker.stop()
    renew = tracker.hooks()
    prepare.settle()
    return handler, renew


def fail(channel: Channel, error: BaseException) -> None:
    """Report an initialisation that failed."""
    document = faults.from_exception(error)
    faults.log(document)
    logs.flush()
    report(channel, document)


def report(channel: Channel, document: object) -> None:
    """Tell the node why there is no handler."""
    body = json.dumps(document).encode()[: channel.heap_free // 2]
    try:
        call(channel, abi.INIT_ERROR, b"", body, room_max=1024).release()
    except BackendError as refused:
        sys.stderr.write(f"nexus: the error could not be reported: {refused}\n")


def main() -> int:
    """Initialise, take the snapshot, handle events. Returns the exit status where there is no handler."""
    channel = open_channel()
    watch()
    logs.setup(channel)
    try:
        handler, renew = initialise(channel)
    except base.Unsuitable as reason:
        report(channel, {"errorType": abi.UNSUITABLE_BASE, "errorMessage": str(reason)})
        return 1
    except SystemExit:
        logs.flush()
        raise
    except BaseException as error:
        fail(channel, error)
        return 1
    logs.flush()
    try:
        restored = channel.snapshot()
    except DeviceUnavailableError as error:
        fail(channel, error)
        return 1
    if restored:
        renewal.run(renew)
        channel.renewed()
        try:
            hooks.after_restore()
        except Exception as error:
            fail(channel, error)
            return 1
    loop.run(channel, handler)
    return 0
