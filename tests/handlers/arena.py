"""Moves objects through the arena's heap, keeps one unread, and says what it read."""

import hashlib

import boto3

s3 = boto3.client("s3")
kept = []


def handler(event, context):
    from nexus.guest.device import open_channel

    digests = []
    for key in event["keys"]:
        content = s3.get_object(Bucket="arena", Key=key)["Body"].read()
        s3.put_object(Bucket="arena", Key=f"{key} copy", Body=content)
        digests.append(hashlib.sha256(content).hexdigest())
    if event.get("keep"):
        kept.append(s3.get_object(Bucket="arena", Key=event["keep"])["Body"])
    elif kept:
        digests.append(hashlib.sha256(kept.pop().read()).hexdigest())
    if "tell" in event:
        # As a runtime would not: after its own last word, and before it waits.
        channel = open_channel()
        channel.shrink = lambda: setattr(channel._rings, "held_until", event["tell"])
    return digests
