"""Scenarios of S3's less usual operations and parameters; see scenarios.py for what they are given."""

import base64
import datetime as dt
import hashlib
import io

import boto3
from botocore.config import Config

client = boto3.client("s3")
MIB = 1 << 20
UTC = dt.UTC


def tagging(step, b):
    client.put_object(Bucket=b, Key="t", Body=b"1", Tagging="a=1&b=zwei%20drei")
    step("given with the object", client.get_object_tagging, Bucket=b, Key="t")
    step("count", client.get_object, Bucket=b, Key="t")
    tags = {"TagSet": [{"Key": "k", "Value": "v <&> \u00fc"}, {"Key": "empty", "Value": ""}]}
    step("put", client.put_object_tagging, Bucket=b, Key="t", Tagging=tags)
    step("get", client.get_object_tagging, Bucket=b, Key="t")
    step("copy keeps", client.copy_object, Bucket=b, Key="t2", CopySource={"Bucket": b, "Key": "t"})
    step("kept", client.get_object_tagging, Bucket=b, Key="t2")
    step(
        "copy replaces",
        client.copy_object,
        Bucket=b,
        Key="t3",
        CopySource={"Bucket": b, "Key": "t"},
        TaggingDirective="REPLACE",
        Tagging="x=y",
    )
    step("replaced", client.get_object_tagging, Bucket=b, Key="t3")
    step("delete", client.delete_object_tagging, Bucket=b, Key="t")
    step("none left", client.get_object_tagging, Bucket=b, Key="t")
    step("missing key", client.get_object_tagging, Bucket=b, Key="none")
    step("twice the same", client.put_object_tagging, Bucket=b, Key="t", Tagging={"TagSet": [{"Key": "k", "Value": "1"}] * 2})
    step("wrong type", client.put_object_tagging, Bucket=b, Key="t", Tagging={"TagSet": "k"})
    step("unknown member", client.put_object_tagging, Bucket=b, Key="t", Tagging={"Tags": []})
    step("missing", client.put_object_tagging, Bucket=b, Key="t")
    step("bucket has none", client.get_bucket_tagging, Bucket=b)
    step("bucket put", client.put_bucket_tagging, Bucket=b, Tagging=tags)
    step("bucket get", client.get_bucket_tagging, Bucket=b)
    step("bucket delete", client.delete_bucket_tagging, Bucket=b)
    step("bucket has none again", client.get_bucket_tagging, Bucket=b)


def versions(step, b):
    step("never", client.get_bucket_versioning, Bucket=b)
    client.put_object(Bucket=b, Key="old", Body=b"before")
    step("on", client.put_bucket_versioning, Bucket=b, VersioningConfiguration={"Status": "Enabled"})
    step("is on", client.get_bucket_versioning, Bucket=b)
    step("no status", client.put_bucket_versioning, Bucket=b, VersioningConfiguration={})
    ids = [client.put_object(Bucket=b, Key="k", Body=b"%d" % turn)["VersionId"] for turn in range(3)]
    step.names(ids)
    step("latest", client.get_object, Bucket=b, Key="k")
    step("first", lambda: client.get_object(Bucket=b, Key="k", VersionId=ids[0])["Body"].read())
    step("head", client.head_object, Bucket=b, Key="k", VersionId=ids[1])
    step("no such version", client.get_object, Bucket=b, Key="k", VersionId="0" * 32)
    marker = client.delete_object(Bucket=b, Key="k")
    step.names([marker["VersionId"]])
    step.note("marker", marker)
    step("deleted", client.get_object, Bucket=b, Key="k")
    step("deleted head", client.head_object, Bucket=b, Key="k")
    step("marker itself", client.get_object, Bucket=b, Key="k", VersionId=marker["VersionId"])
    step("list", client.list_object_versions, Bucket=b)
    step("objects", lambda: [o["Key"] for o in client.list_objects_v2(Bucket=b)["Contents"]])
    step("marker removed", client.delete_object, Bucket=b, Key="k", VersionId=marker["VersionId"])
    step("back", lambda: client.get_object(Bucket=b, Key="k")["Body"].read())
    step("latest removed", client.delete_object, Bucket=b, Key="k", VersionId=ids[2])
    step("before it", lambda: client.get_object(Bucket=b, Key="k")["Body"].read())
    copied = client.copy_object(Bucket=b, Key="c", CopySource={"Bucket": b, "Key": "k", "VersionId": ids[0]})
    step.names([copied["VersionId"]])
    step.note("copy of a version", copied)
    step("tag a version", client.put_object_tagging, Bucket=b, Key="k", VersionId=ids[0], Tagging={"TagSet": []})
    several = [{"Key": "k", "VersionId": ids[0]}, {"Key": "old"}, {"Key": "none"}]
    gone = client.delete_objects(Bucket=b, Delete={"Objects": several})
    step.names([one["DeleteMarkerVersionId"] for one in gone["Deleted"] if "DeleteMarkerVersionId" in one])
    step.note("delete several", gone)
    step("quiet", client.delete_objects, Bucket=b, Delete={"Objects": [{"Key": "quiet"}], "Quiet": True})
    step("off", client.put_bucket_versioning, Bucket=b, VersioningConfiguration={"Status": "Suspended"})
    step("null version", client.put_object, Bucket=b, Key="k", Body=b"null")
    step("null deleted", client.delete_object, Bucket=b, Key="k")
    for key in ("p/1", "p/2", "q \u00fc/1"):
        client.put_object(Bucket=b, Key=key, Body=b"1")
    step("grouped", client.list_object_versions, Bucket=b, Delimiter="/", Prefix="p")
    pages = client.get_paginator("list_object_versions").paginate(Bucket=b, PaginationConfig={"PageSize": 2})
    step("pages", lambda: [sorted(v["Key"] for v in p.get("Versions", []) + p.get("DeleteMarkers", [])) for p in pages])
    step(
        "grouped pages",
        lambda: [
            [p["Prefix"] for p in page.get("CommonPrefixes", [])]
            for page in client.get_paginator("list_object_versions").paginate(
                Bucket=b, Delimiter="/", PaginationConfig={"PageSize": 1}
            )
        ],
    )
    step("resource", lambda: len(list(boto3.resource("s3").Bucket(b).object_versions.all())))
    step("cleared", lambda: len(boto3.resource("s3").Bucket(b).object_versions.delete()[0]["Deleted"]))


def multipart(step, b):
    part = bytes(range(256)) * (5 * MIB // 256)
    made = client.create_multipart_upload(
        Bucket=b, Key="m", ContentType="text/m", Metadata={"a": "1"}, ChecksumAlgorithm="SHA256", Tagging="t=1",
        StorageClass="STANDARD", Expires=dt.datetime(2037, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    upload = made["UploadId"]
    step.names([upload])
    step.note("create", made)
    step("uploads", client.list_multipart_uploads, Bucket=b)
    small = step(
        "part", client.upload_part, Bucket=b, Key="m", UploadId=upload, PartNumber=2, Body=b"tail", ChecksumAlgorithm="SHA256"
    )
    large = step(
        "large part",
        client.upload_part,
        Bucket=b,
        Key="m",
        UploadId=upload,
        PartNumber=1,
        Body=part,
        ChecksumAlgorithm="SHA256",
    )
    step("no such upload", client.upload_part, Bucket=b, Key="m", UploadId="none", PartNumber=1, Body=b"x")
    step("parts", client.list_parts, Bucket=b, Key="m", UploadId=upload)
    step("parts by one", client.list_parts, Bucket=b, Key="m", UploadId=upload, MaxParts=1)
    parts = [{"PartNumber": n, "ETag": p["ETag"], "ChecksumSHA256": p["ChecksumSHA256"]} for n, p in ((1, large), (2, small))]
    step(
        "wrong order",
        client.complete_multipart_upload,
        Bucket=b,
        Key="m",
        UploadId=upload,
        MultipartUpload={"Parts": parts[::-1]},
    )
    step("wrong type", client.complete_multipart_upload, Bucket=b, Key="m", UploadId=upload, MultipartUpload={"Parts": "1"})
    step("complete", client.complete_multipart_upload, Bucket=b, Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    step("head", client.head_object, Bucket=b, Key="m", ChecksumMode="ENABLED")
    step("by part", lambda: client.get_object(Bucket=b, Key="m", PartNumber=2)["Body"].read())
    step(
        "attributes",
        client.get_object_attributes,
        Bucket=b,
        Key="m",
        ObjectAttributes=["ETag", "Checksum", "ObjectParts", "ObjectSize"],
    )
    body = step("get", client.get_object, Bucket=b, Key="m")
    step("whole", lambda: hashlib.sha1(body["Body"].read()).hexdigest())
    made = client.create_multipart_upload(Bucket=b, Key="w", ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    upload = made["UploadId"]
    step.names([upload])
    one = client.upload_part_copy(
        Bucket=b, Key="w", UploadId=upload, PartNumber=1, CopySource={"Bucket": b, "Key": "m"}, CopySourceRange="bytes=0-9"
    )
    step.note("copied part", one)
    parts = [{"PartNumber": 1, "ETag": one["CopyPartResult"]["ETag"]}]
    step("not if there", client.complete_multipart_upload, Bucket=b, Key="m", UploadId=upload, MultipartUpload={"Parts": parts})
    step(
        "complete",
        client.complete_multipart_upload,
        Bucket=b,
        Key="w",
        UploadId=upload,
        MultipartUpload={"Parts": parts},
        IfNoneMatch="*",
    )
    step("full checksum", client.head_object, Bucket=b, Key="w", ChecksumMode="ENABLED")
    upload = client.create_multipart_upload(Bucket=b, Key="gone")["UploadId"]
    step("abort", client.abort_multipart_upload, Bucket=b, Key="gone", UploadId=upload)
    step("abort again", client.abort_multipart_upload, Bucket=b, Key="gone", UploadId="0" * 32)
    step("none left", client.list_multipart_uploads, Bucket=b, Prefix="gone")


def checksums(step, b):
    for name in ("CRC32", "SHA1", "SHA256", "CRC32C", "CRC64NVME", "MD4"):
        step(name, client.put_object, Bucket=b, Key=name, Body=b"123456789", ChecksumAlgorithm=name)
        step(f"{name} back", client.get_object, Bucket=b, Key=name, ChecksumMode="ENABLED")
        step(f"{name} head", client.head_object, Bucket=b, Key=name, ChecksumMode="ENABLED")
    step("given", client.put_object, Bucket=b, Key="g", Body=b"123456789", ChecksumCRC32C="4waSgw==")
    step("given 64", client.put_object, Bucket=b, Key="g64", Body=b"123456789", ChecksumCRC64NVME="rosUhgp5mIg=")
    step("given 64 back", client.get_object, Bucket=b, Key="g64")
    step("given wrong", client.put_object, Bucket=b, Key="g", Body=b"123456789", ChecksumSHA1="AAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    step("given back", lambda: client.get_object(Bucket=b, Key="g")["Body"].read())
    step("md5 wrong", client.put_object, Bucket=b, Key="g", Body=b"1", ContentMD5="kAFQmDzST7DWlj99KOF/cg==")
    step("length", client.put_object, Bucket=b, Key="l", Body=b"12345", ContentLength=5)
    step("copy", client.copy_object, Bucket=b, Key="copy", CopySource={"Bucket": b, "Key": "SHA1"}, ChecksumAlgorithm="SHA256")
    step("copied", client.head_object, Bucket=b, Key="copy", ChecksumMode="ENABLED")
    step("deleted", client.delete_objects, Bucket=b, Delete={"Objects": [{"Key": "g\n\r<&>"}]}, ChecksumAlgorithm="SHA256")
    step("range", client.get_object, Bucket=b, Key="SHA256", Range="bytes=1-2")
    plain = boto3.client("s3", config=Config(response_checksum_validation="when_required"))
    step("not validated", plain.get_object, Bucket=b, Key="SHA256")


def encryption(step, b):
    kms = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/key", "BucketKeyEnabled": True}
    step(
        "kms",
        client.put_object,
        Bucket=b,
        Key="kms",
        Body=b"1",
        **kms,
        SSEKMSEncryptionContext=base64.b64encode(b"{}").decode(),
    )
    step("kms back", client.get_object, Bucket=b, Key="kms")
    step("aes", client.put_object, Bucket=b, Key="aes", Body=b"1", ServerSideEncryption="AES256")
    step("aes head", client.head_object, Bucket=b, Key="aes")
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    step("customer", client.put_object, Bucket=b, Key="c", Body=b"secret", **key)
    step(
        "customer bytes",
        client.put_object,
        Bucket=b,
        Key="cb",
        Body=b"secret",
        SSECustomerAlgorithm="AES256",
        SSECustomerKey=bytes(range(32)),
    )
    step("customer back", lambda: client.get_object(Bucket=b, Key="c", **key)["Body"].read())
    step("customer head", client.head_object, Bucket=b, Key="c", **key)
    step("without key", client.get_object, Bucket=b, Key="c")
    step("other key", client.get_object, Bucket=b, Key="c", SSECustomerAlgorithm="AES256", SSECustomerKey="x" * 32)
    step("bad key", client.put_object, Bucket=b, Key="c", Body=b"1", SSECustomerAlgorithm="AES256", SSECustomerKey="short")
    step(
        "copied", client.copy_object, Bucket=b, Key="d", CopySource={"Bucket": b, "Key": "c"},
        CopySourceSSECustomerAlgorithm="AES256", CopySourceSSECustomerKey="k" * 32, ServerSideEncryption="AES256",
    )  # fmt: skip
    step("class", client.put_object, Bucket=b, Key="ia", Body=b"1", StorageClass="STANDARD_IA")
    step("class head", client.head_object, Bucket=b, Key="ia")
    step("class listed", client.list_objects_v2, Bucket=b, OptionalObjectAttributes=["RestoreStatus"])
    step("redirect", client.put_object, Bucket=b, Key="r", Body=b"1", WebsiteRedirectLocation="/elsewhere")
    step("redirect head", client.head_object, Bucket=b, Key="r")
    step("owner", client.get_object, Bucket=b, Key="r", ExpectedBucketOwner="000000000000")
    step("payer", client.head_object, Bucket=b, Key="r", RequestPayer="requester")


def conditions(step, b):
    past, future = dt.datetime(2001, 1, 1, tzinfo=UTC), dt.datetime(2037, 1, 1)
    tag = client.put_object(Bucket=b, Key="k", Body=b"0123456789")["ETag"]
    for name, given in {
        "modified since past": {"IfModifiedSince": past},
        "modified since future": {"IfModifiedSince": future},
        "unmodified since past": {"IfUnmodifiedSince": past},
        "unmodified since future": {"IfUnmodifiedSince": future},
        "as text": {"IfModifiedSince": "2001-01-01"},
        "no date": {"IfModifiedSince": "yesterday"},
        "expires": {"ResponseExpires": future, "ResponseContentLanguage": "de"},
    }.items():
        step(f"get {name}", client.get_object, Bucket=b, Key="k", **given)
        if "ResponseExpires" not in given:
            step(f"head {name}", client.head_object, Bucket=b, Key="k", **given)
    step("absent", client.put_object, Bucket=b, Key="new", Body=b"1", IfNoneMatch="*")
    step("absent again", client.put_object, Bucket=b, Key="new", Body=b"2", IfNoneMatch="*")
    step("match", client.put_object, Bucket=b, Key="k", Body=b"2", IfMatch=tag)
    step("match again", client.put_object, Bucket=b, Key="k", Body=b"3", IfMatch=tag)
    step("match nothing", client.put_object, Bucket=b, Key="none", Body=b"3", IfMatch=tag)
    step("copy if", client.copy_object, Bucket=b, Key="c", CopySource=f"{b}/k", CopySourceIfMatch=tag)
    step("copy since", client.copy_object, Bucket=b, Key="c", CopySource=f"{b}/k", CopySourceIfModifiedSince=past)
    step("delete if", client.delete_object, Bucket=b, Key="k", IfMatch=tag)
    step("head range", client.head_object, Bucket=b, Key="k", Range="bytes=0-0")
    step("put expires", client.put_object, Bucket=b, Key="e", Body=b"1", Expires=dt.datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC))
    step("expires back", client.get_object, Bucket=b, Key="e")
    step("body gone", client.put_object, Bucket=b, Key="x", Body=io.BytesIO(b"file"), ContentLength=4)
    step("location", client.get_bucket_location, Bucket=b)
    step("created", client.create_bucket, Bucket=b + "-eu", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    step("deleted", client.delete_bucket, Bucket=b + "-eu")
    step("deleted again", client.delete_bucket, Bucket=b + "-eu")
    step("not empty", client.delete_bucket, Bucket=b)
    step("no bucket", client.list_objects, Bucket=b + "-none")
    step("old list", client.list_objects, Bucket=b, MaxKeys=2, Delimiter="/")


SCENARIOS = [tagging, versions, multipart, checksums, encryption, conditions]
