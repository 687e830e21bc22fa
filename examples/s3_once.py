"""Reads one object, writes another: the benchmarks of prefetch and of deferred writes measure with it.

Event: ``{"bucket": "bench", "key": "large", "target": "out", "size": 1048576}``; without ``key`` nothing is read, without
``target`` nothing is written. With ``"look": true`` it looks at each byte that it has read.
"""

import zlib

import boto3

s3 = boto3.client("s3")


def handler(event, context):
    body = b""
    if "key" in event:
        body = s3.get_object(Bucket=event["bucket"], Key=event["key"])["Body"].read()
    if event.get("look"):
        zlib.crc32(body)
    if "target" in event:
        s3.put_object(Bucket=event["bucket"], Key=event["target"], Body=bytes(event["size"]))
    return {"bytes": len(body)}
