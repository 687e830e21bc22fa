"""Reads an object and writes it under another key, some times over: the smallest real S3 work.

Event: ``{"bucket": "bench", "key": "in", "target": "out", "count": 1}``. The benchmarks measure with it.
Without a target (null) it only reads.
With ``"collect": true`` it does one full garbage collection at the end, as a long-lived instance would have done; ``"hold": 2``
lets it stay for two seconds more, ``"until"`` until that time (seconds since 1970), so that many instances are busy at once.
"""

import gc
import time

import boto3

s3 = boto3.client("s3")


def handler(event, context):
    size = 0
    for _ in range(event.get("count", 1)):
        body = s3.get_object(Bucket=event["bucket"], Key=event["key"])["Body"].read()
        if event["target"] is not None:
            s3.put_object(Bucket=event["bucket"], Key=event["target"], Body=body)
        size = len(body)
    if event.get("collect"):
        gc.collect()
    time.sleep(event.get("hold", 0))
    time.sleep(max(0, event.get("until", 0) - time.time()))
    return {"bytes": size}
