"""Says what the clocks and the CPU's number are after a restore, and what a copy of the restored process finds."""

import ctypes
import hashlib
import multiprocessing
import os
import time

import boto3

# In the snapshot, and not touched before the copy is made.
DATA = [os.urandom(4096) for _ in range(500)]
SUM = hashlib.sha256(b"".join(DATA)).hexdigest()
libc = ctypes.CDLL(None)


def _summed(queue):
    queue.put((hashlib.sha256(b"".join(DATA)).hexdigest(), os.getppid()))


def _calls(queue):
    try:
        boto3.client("s3").list_buckets()
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")
    else:
        queue.put("served")


def _in_a_copy(work):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    copy = context.Process(target=work, args=(queue,))
    copy.start()
    copy.join(60)
    return queue.get() if copy.exitcode == 0 else f"status {copy.exitcode}"


def _price(call, times=300):
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def handler(event, context):
    clocks = {"monotonic": time.monotonic(), "time": time.time(), "cpu": libc.sched_getcpu()}
    call = min(_price(os.getppid) for _ in range(5))
    clocks["cheap"] = all(min(_price(read) for _ in range(5)) < call / 2 for read in (time.monotonic, libc.sched_getcpu))
    summed = _in_a_copy(_summed)
    return {
        "clocks": clocks,
        "copied": list(summed) == [SUM, os.getpid()],
        "call": _in_a_copy(_calls),
        "after": boto3.client("s3").list_buckets()["ResponseMetadata"]["HTTPStatusCode"],
    }
