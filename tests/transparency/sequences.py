"""Runs a list of S3 operations; see test_sequences.py."""

import datetime as dt

import boto3
from describe import describe

client = boto3.client("s3")


def filled(params, bucket, tags):
    """Parameters with what only shows at run time."""
    params = {"Bucket": bucket, **params}
    if "Body" in params:
        params["Body"] = params["Body"].encode("latin-1")
    for name in ("IfMatch", "IfNoneMatch", "CopySourceIfMatch"):
        if params.get(name) == "@etag":
            params[name] = tags.get(params["Key"], '"1"')
    if "IfModifiedSince" in params:
        params["IfModifiedSince"] = dt.datetime(2001, 1, 1)
    if "CopySource" in params:
        params["CopySource"] = {"Bucket": bucket, "Key": params["CopySource"]["Key"]}
    return params


def handler(event, context):
    bucket, log, tags = event["bucket"], [], {}
    client.create_bucket(Bucket=bucket)
    for name, given in event["operations"]:
        params = filled(given, bucket, tags)
        try:
            answer = getattr(client, name)(**params)
        except Exception as error:
            log.append(describe(error, bucket))
            continue
        if "ETag" in answer and "Key" in params:
            tags[params["Key"]] = answer["ETag"]
        told = describe(answer, bucket)
        if "Body" in answer:
            told.append(describe(answer["Body"].read(), bucket))
        log.append(told)
    left = []
    for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        head = client.head_object(Bucket=bucket, Key=item["Key"], ChecksumMode="ENABLED")
        left.append([item["Key"], item["ETag"], describe(head, bucket)])
    return [*log, left]
