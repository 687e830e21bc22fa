"""A Lambda handler that moves objects much larger than its memory, and holds many unread bodies; see test_streaming.py."""

import hashlib
import io
import os
import resource
import threading
import time

import boto3
from boto3.s3.transfer import TransferConfig

s3 = boto3.client("s3")
MIB = 1 << 20


class Pattern(io.RawIOBase):
    """A file of pseudo-random bytes that nobody stores."""

    def __init__(self, size):
        self.size, self.at = size, 0
        self.block = hashlib.shake_256(b"pattern").digest(MIB)

    def readable(self):
        return True

    def readinto(self, buffer):
        start = self.at % MIB
        count = min(len(buffer), self.size - self.at, MIB - start)
        buffer[:count] = self.block[start : start + count]
        self.at += count
        return count


class Check(io.RawIOBase):
    """A file that only looks at what is written to it."""

    def __init__(self):
        self.hash, self.size = hashlib.sha256(), 0

    def writable(self):
        return True

    def write(self, data):
        self.hash.update(data)
        self.size += len(data)
        return len(data)


def large(event):
    config = TransferConfig(
        multipart_chunksize=event.get("chunk", 8) * MIB, max_concurrency=event.get("threads", 2), io_chunksize=256 << 10
    )
    # A body that cannot seek is read into memory part by part: by default ten of them at a time.
    config.max_in_memory_upload_chunks = 2
    config.max_request_queue_size = config.max_io_queue_size = 4
    size = event["size"]
    began = time.monotonic()
    s3.upload_fileobj(io.BufferedReader(Pattern(size), MIB), event["bucket"], "large", Config=config)
    middle = time.monotonic()
    seen = Check()
    # One reader: threads would have the parts out of order, which wants a file that can seek.
    s3.download_fileobj(event["bucket"], "large", seen, Config=config)
    return {
        "size": seen.size,
        "sha256": seen.hash.hexdigest(),
        "upload_s": middle - began,
        "download_s": time.monotonic() - middle,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def unread(event):
    bodies = [s3.get_object(Bucket=event["bucket"], Key="object")["Body"] for _ in range(event["count"])]
    # Others go on meanwhile, uploads that need much heap among them.
    data = os.urandom(MIB)
    s3.put_object(Bucket=event["bucket"], Key="beside", Body=data)
    same = s3.get_object(Bucket=event["bucket"], Key="beside")["Body"].read() == data
    first, last = bodies[0].read(), bodies[-1].read()
    digests = [hashlib.sha256(first).hexdigest(), hashlib.sha256(last).hexdigest()]
    for body in bodies:
        body.close()
    return {"same": same, "digests": digests, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_threads(count, work):
    workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def kept(event):
    """Reads, keeps, sends on and lets go of bodies that lie in the arena, in several threads."""
    from nexus.guest.device import open_channel

    wrong = []

    def work(thread):
        mine = {}
        for step in range(event["steps"]):
            key = f"kept/{(thread * 7 + step * 5) % event['objects']}"
            body = s3.get_object(Bucket=event["bucket"], Key=key)["Body"].read()
            if step % 4 == 1:
                body += b"grown"
            elif step % 4 == 2:
                s3.put_object(Bucket=event["bucket"], Key=f"sent/{thread}/{step}", Body=body)
                back = s3.get_object(Bucket=event["bucket"], Key=f"sent/{thread}/{step}")["Body"].read()
                if back != body:
                    wrong.append(("sent", thread, step))
            mine[step] = (key, body)
            if step % 6 == 5:
                mine.pop(min(mine))
            for number, (key, body) in mine.items():
                expected = event["digests"][key]
                if hashlib.sha256(body.removesuffix(b"grown")).hexdigest() != expected:
                    wrong.append(("kept", thread, number))

    in_threads(event["threads"], work)
    body = s3.get_object(Bucket=event["bucket"], Key="kept/1")["Body"].read()
    return {"wrong": wrong, "lent": bool(open_channel().lent(body))}


def threads(event):
    """Many transfers of ten threads each at a time."""
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=10)
    data = os.urandom(MIB) * 11
    failures = []

    def work(number):
        try:
            s3.upload_fileobj(io.BytesIO(data), event["bucket"], f"t/{number}", Config=config)
            target = io.BytesIO()
            s3.download_fileobj(event["bucket"], f"t/{number}", target, Config=config)
            assert target.getvalue() == data
        except BaseException as error:
            failures.append(repr(error))

    in_threads(event["transfers"], work)
    return failures


def handler(event, context):
    return {"large": large, "unread": unread, "kept": kept, "threads": threads}[event["what"]](event)
