"""Makes a thumbnail of a photograph in the object store: an ordinary AWS Lambda handler.

Event: ``{"bucket": "photos", "key": "coffee.png", "size": 256}``; ``size`` (the longest edge in pixels) may be left out.
Writes ``thumbs/coffee.png.jpg`` to the same bucket and returns what it wrote.
"""

import io

import boto3
from PIL import Image

s3 = boto3.client("s3")


def handler(event, context):
    bucket, key = event["bucket"], event["key"]
    edge = int(event.get("size", 256))

    photo = Image.open(io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read()))
    original = photo.size
    photo = photo.convert("RGB")
    photo.thumbnail((edge, edge))

    output = io.BytesIO()
    photo.save(output, "JPEG", quality=85)
    target = f"thumbs/{key}.jpg"
    s3.put_object(Bucket=bucket, Key=target, Body=output.getvalue(), ContentType="image/jpeg")
    return {
        "key": target,
        "width": photo.width,
        "height": photo.height,
        "bytes": output.tell(),
        "original": {"width": original[0], "height": original[1]},
    }
