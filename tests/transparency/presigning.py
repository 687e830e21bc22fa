"""A Lambda handler that signs things for others to use; see test_presigned.py."""

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

s3 = boto3.client("s3")


def handler(event, context):
    target = {"Bucket": event["bucket"], "Key": "signed \u00fc.txt"}
    urls = {
        "put": s3.generate_presigned_url("put_object", Params={**target, "ContentType": "text/x", "Metadata": {"a": "1"}}),
        "get": s3.generate_presigned_url("get_object", Params=target, ExpiresIn=60),
        "v4": boto3.client("s3", config=Config(signature_version="s3v4")).generate_presigned_url("get_object", Params=target),
        "other name": s3.generate_presigned_url(
            "get_object", Params={**target, "ResponseContentDisposition": 'attachment; filename="a b"'}
        ),
        "short": s3.generate_presigned_url("get_object", Params=target, ExpiresIn=1),
        "long": s3.generate_presigned_url("get_object", Params=target, ExpiresIn=7 * 86400),
        "delete": s3.generate_presigned_url("delete_object", Params=target),
        "token": boto3.client("rds").generate_db_auth_token("db.example.com", 5432, "me"),
        "identity": boto3.client("sts").generate_presigned_url("get_caller_identity"),
    }
    form = s3.generate_presigned_post(
        event["bucket"],
        "form/f.txt",
        Fields={"Content-Type": "text/y"},
        Conditions=[["starts-with", "$Content-Type", "text/"], ["content-length-range", 1, 10]],
    )
    try:
        boto3.client("s3", endpoint_url="http://169.254.169.254").generate_presigned_url("get_object", Params=target)
        denied = None
    except ClientError as error:
        denied = error.response["Error"]["Code"]
    return {"urls": urls, "form": form, "denied": denied}
