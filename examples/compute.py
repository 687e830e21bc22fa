"""Computes and nothing else: an interpreter loop, allocation, sorting and hashing, as many times as asked.

Event: ``{"rounds": 20}``. The benchmark of CPU-bound code measures with it.
"""

import hashlib
import json


def handler(event, context):
    digest = b""
    for number in range(event["rounds"]):
        values = [(value * 7919 + number) % 10_007 for value in range(40_000)]
        total = 0
        for value in values:
            if value % 3:
                total += value
        values.sort()
        table = {str(value): value for value in values}
        text = json.dumps(table)
        digest = hashlib.sha256(digest + text.encode() + str(total).encode()).digest()
    return {"digest": digest.hex()}
