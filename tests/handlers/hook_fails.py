"""A hook that fails on the side that the environment names."""

import os

from snapshot_restore_py import register_after_restore, register_before_snapshot


class HookError(Exception):
    pass


def fail():
    raise HookError("no connection")


{"before": register_before_snapshot, "after": register_after_restore}[os.environ["SIDE"]](fail)


def handler(event, context):
    return "never"
