"""The local store against the real boto3: operations, conditions, checksums, odd keys, and durability."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import botocore.exceptions
import pytest
from boto3.s3.transfer import TransferConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CREDENTIALS = {"access_key_id": "STORETESTSTORETEST00", "secret_access_key": "a secret for tests"}


class Server:
    """A nexus-store process over a directory that outlives it."""

    def __init__(self, binaries: Path, root: Path) -> None:
        self.binary, self.root = binaries / "nexus-store", root
        self.process: subprocess.Popen[bytes] | None = None
        credentials = root / "credentials.json"
        credentials.write_text(json.dumps(CREDENTIALS))
        credentials.chmod(0o600)
        self.start()

    def start(self) -> None:
        """Start and wait until it serves."""
        address = self.root / "address.json"
        address.unlink(missing_ok=True)
        command = [self.binary, "--listen", "127.0.0.1:0", "--directory", self.root / "data"]
        command += ["--credentials", self.root / "credentials.json", "--address-file", address]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while not address.exists():
            assert self.process.poll() is None, "the store ended"
            assert time.monotonic() < deadline, "the store does not serve"
            time.sleep(0.01)
        self.endpoint = f"http://{json.loads(address.read_text())['address']}"

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it with this signal; the exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=20)

    def client(self, **config: Any) -> Any:
        """A boto3 client for it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["access_key_id"],
            aws_secret_access_key=CREDENTIALS["secret_access_key"],
            config=botocore.config.Config(retries={"max_attempts": 0}, **config),
        )


@pytest.fixture(scope="module")
def server(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One store for the module."""
    server = Server(binaries, tmp_path_factory.mktemp("store"))
    yield server
    assert server.end() == 0


@pytest.fixture(scope="module")
def s3(server: Server) -> Any:
    """A client, with bucket `b` made."""
    s3 = server.client()
    s3.create_bucket(Bucket="bbb")
    return s3


def code(call: Callable[..., Any], **arguments: Any) -> str:
    """Error code that a call fails with."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize("size", [0, 1, 65536, 262_144, 262_145, 5 << 20])
def test_an_object_comes_back_as_it_was_put(s3: Any, size: int) -> None:
    body = os.urandom(size)
    put = s3.put_object(
        Bucket="bbb",
        Key="object",
        Body=body,
        ContentType="text/x",
        CacheControl="no-store",
        ContentDisposition="inline",
        ContentLanguage="de",
        Metadata={"a": "1", "b": "zwei"},
        Expires=1_900_000_000,
    )
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket="bbb", Key="object")
    head = s3.head_object(Bucket="bbb", Key="object")
    assert got["Body"].read() == body
    for answer in (got, head):
        assert answer["ContentLength"] == size
        assert answer["ETag"] == put["ETag"]
        assert answer["ContentType"] == "text/x"
        assert answer["CacheControl"] == "no-store"
        assert answer["ContentDisposition"] == "inline"
        assert answer["ContentLanguage"] == "de"
        assert answer["Metadata"] == {"a": "1", "b": "zwei"}
        assert answer["ExpiresString"].endswith("GMT")


def test_a_type_that_was_not_given_is_binary(s3: Any) -> None:
    s3.put_object(Bucket="bbb", Key="untyped", Body=b"x")
    assert s3.head_object(Bucket="bbb", Key="untyped")["ContentType"] == "binary/octet-stream"


@pytest.mark.parametrize(
    ("header", "expected", "content_range"),
    [
        ("bytes=0-9", slice(0, 10), "bytes 0-9/1000"),
        ("bytes=990-", slice(990, 1000), "bytes 990-999/1000"),
        ("bytes=-7", slice(993, 1000), "bytes 993-999/1000"),
        ("bytes=500-100000", slice(500, 1000), "bytes 500-999/1000"),
    ],
)
def test_ranges(s3: Any, header: str, expected: slice, content_range: str) -> None:
    body = bytes(n % 251 for n in range(1000))
    s3.put_object(Bucket="bbb", Key="ranged", Body=body)
    got = s3.get_object(Bucket="bbb", Key="ranged", Range=header)
    assert got["Body"].read() == body[expected]
    assert got["ContentRange"] == content_range
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_beyond_the_end_is_refused(s3: Any) -> None:
    s3.put_object(Bucket="bbb", Key="short", Body=b"12345")
    assert code(s3.get_object, Bucket="bbb", Key="short", Range="bytes=10-20") == "InvalidRange"


def test_conditions_of_reads(s3: Any) -> None:
    tag = s3.put_object(Bucket="bbb", Key="conditional", Body=b"x")["ETag"]
    get = lambda **c: s3.get_object(Bucket="bbb", Key="conditional", **c)  # noqa: E731
    assert get(IfMatch=tag)["ETag"] == tag
    assert code(get, IfMatch='"other"') == "PreconditionFailed"
    assert code(get, IfNoneMatch=tag) == "304"
    assert get(IfNoneMatch='"other"')["ETag"] == tag
    modified = s3.head_object(Bucket="bbb", Key="conditional")["LastModified"]
    assert code(get, IfModifiedSince=modified) == "304"
    assert get(IfUnmodifiedSince=modified)["ETag"] == tag


def test_conditions_of_writes(s3: Any) -> None:
    put = lambda **c: s3.put_object(Bucket="bbb", Key="once", Body=b"x", **c)  # noqa: E731
    s3.delete_object(Bucket="bbb", Key="once")
    tag = put(IfNoneMatch="*")["ETag"]
    assert code(put, IfNoneMatch="*") == "PreconditionFailed"
    assert code(put, IfMatch='"other"') == "PreconditionFailed"
    assert put(IfMatch=tag)["ETag"] == tag


def test_what_is_missing_is_named(s3: Any) -> None:
    assert code(s3.get_object, Bucket="bbb", Key="absent") == "NoSuchKey"
    assert code(s3.get_object, Bucket="absent-bucket", Key="absent") == "NoSuchBucket"
    assert code(s3.head_object, Bucket="bbb", Key="absent") == "404"
    assert code(s3.head_bucket, Bucket="absent-bucket") == "404"
    assert code(s3.put_object, Bucket="absent-bucket", Key="a", Body=b"") == "NoSuchBucket"
    assert code(s3.list_objects_v2, Bucket="absent-bucket") == "NoSuchBucket"
    s3.delete_object(Bucket="bbb", Key="absent")


# Of "123456789", as the algorithms' definitions give it.
CHECKSUMS = {
    "CRC32": "y/Q5Jg==",
    "CRC32C": "4waSgw==",
    "CRC64NVME": "rosUhgp5mIg=",
    "SHA1": base64.b64encode(hashlib.sha1(b"123456789").digest()).decode(),
    "SHA256": base64.b64encode(hashlib.sha256(b"123456789").digest()).decode(),
}


@pytest.mark.parametrize("algorithm", list(CHECKSUMS))
def test_checksums_are_verified_and_kept(s3: Any, algorithm: str) -> None:
    field = f"Checksum{algorithm}"
    body = b"123456789"
    given = CHECKSUMS[algorithm]
    put = s3.put_object(Bucket="bbb", Key="summed", Body=body, **{field: given})
    got = s3.get_object(Bucket="bbb", Key="summed", ChecksumMode="ENABLED")
    assert got[field] == put[field] == given
    assert got["Body"].read() == body


def test_a_body_that_does_not_match_its_checksum_never_appears(s3: Any) -> None:
    put = lambda **c: s3.put_object(Bucket="bbb", Key="corrupt", Body=b"123456789", **c)  # noqa: E731
    assert code(put, ChecksumCRC32="AAAAAA==") == "BadDigest"
    assert code(put, ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==") == "BadDigest"
    assert code(put, ContentMD5="not base64") == "InvalidDigest"
    assert code(s3.get_object, Bucket="bbb", Key="corrupt") == "NoSuchKey"


ODD_KEYS = [
    "a b",
    "a+b",
    "ü/ö",
    "a//b",
    "/lead",
    "trail/",
    ".",
    "a/./b",
    "a/../b",
    "%41",
    "q?x=1&y",
    "#",
    "日本",
    "'\"<>&",
    "~*",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_kept_apart_and_listed(s3: Any, key: str) -> None:
    s3.put_object(Bucket="bbb", Key=key, Body=key.encode())
    assert s3.get_object(Bucket="bbb", Key=key)["Body"].read() == key.encode()
    listed = s3.list_objects_v2(Bucket="bbb", Prefix=key)["Contents"]
    assert key in {o["Key"] for o in listed}
    s3.copy_object(Bucket="bbb", Key=f"copies/{key}", CopySource={"Bucket": "bbb", "Key": key})
    assert s3.get_object(Bucket="bbb", Key=f"copies/{key}")["Body"].read() == key.encode()


def test_listings_are_ordered_grouped_and_paged(s3: Any) -> None:
    s3.create_bucket(Bucket="listing")
    keys = [f"{d}/{n:03}" for d in ("a", "b", "ä", "z/y") for n in range(30)] + ["a", "top", "ä"]
    for key in keys:
        s3.put_object(Bucket="listing", Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="listing", PaginationConfig={"PageSize": 7})
    assert [o["Key"] for page in pages for o in page["Contents"]] == sorted(keys, key=str.encode)
    grouped = s3.list_objects_v2(Bucket="listing", Delimiter="/")
    assert [p["Prefix"] for p in grouped["CommonPrefixes"]] == ["a/", "b/", "z/", "ä/"]
    assert [o["Key"] for o in grouped["Contents"]] == ["a", "top", "ä"]
    found: list[str] = []
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="listing", Delimiter="/", PaginationConfig={"PageSize": 2})
    for page in pages:
        assert page["KeyCount"] <= 2
        found += [p["Prefix"] for p in page.get("CommonPrefixes", [])] + [o["Key"] for o in page.get("Contents", [])]
    assert sorted(found) == sorted(["a/", "b/", "z/", "ä/", "a", "top", "ä"])
    after = s3.list_objects_v2(Bucket="listing", StartAfter="top")
    assert [o["Key"] for o in after["Contents"]][0] == "z/y/000"
    assert s3.list_objects_v2(Bucket="listing", Prefix="nothing")["KeyCount"] == 0
    old = s3.list_objects(Bucket="listing", Prefix="b/", MaxKeys=10)
    assert old["IsTruncated"]
    assert len(old["Contents"]) == 10


def test_buckets(s3: Any) -> None:
    s3.create_bucket(Bucket="temporary")
    s3.create_bucket(Bucket="temporary")
    assert "temporary" in {b["Name"] for b in s3.list_buckets()["Buckets"]}
    s3.put_object(Bucket="temporary", Key="k", Body=b"")
    assert code(s3.delete_bucket, Bucket="temporary") == "BucketNotEmpty"
    s3.delete_objects(Bucket="temporary", Delete={"Objects": [{"Key": "k"}, {"Key": "absent"}]})
    s3.delete_bucket(Bucket="temporary")
    assert code(s3.head_bucket, Bucket="temporary") == "404"


def test_copy_keeps_or_replaces_metadata(s3: Any) -> None:
    s3.put_object(Bucket="bbb", Key="source", Body=b"copy me", ContentType="text/a", Metadata={"k": "v"})
    source = {"Bucket": "bbb", "Key": "source"}
    copied = s3.copy_object(Bucket="bbb", Key="kept", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == s3.head_object(Bucket="bbb", Key="source")["ETag"]
    assert s3.head_object(Bucket="bbb", Key="kept")["Metadata"] == {"k": "v"}
    replace = {"MetadataDirective": "REPLACE", "Metadata": {"new": "1"}, "ContentType": "text/b"}
    s3.copy_object(Bucket="bbb", Key="replaced", CopySource=source, **replace)
    head = s3.head_object(Bucket="bbb", Key="replaced")
    assert (head["Metadata"], head["ContentType"]) == ({"new": "1"}, "text/b")
    assert code(s3.copy_object, Bucket="bbb", Key="source", CopySource=source) == "InvalidRequest"
    absent = {"Bucket": "bbb", "Key": "absent"}
    assert code(s3.copy_object, Bucket="bbb", Key="c", CopySource=absent) == "NoSuchKey"


def test_transfer_of_twenty_mebibytes_in_parts(s3: Any) -> None:
    body = os.urandom(20 << 20)
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(body), "bbb", "large", Config=config)
    head = s3.head_object(Bucket="bbb", Key="large")
    parts = [hashlib.md5(body[n : n + (5 << 20)]).digest() for n in range(0, len(body), 5 << 20)]
    assert head["ETag"] == f'"{hashlib.md5(b"".join(parts)).hexdigest()}-4"'
    back = io.BytesIO()
    s3.download_fileobj("bbb", "large", back, Config=config)
    assert back.getvalue() == body


def test_multipart_uploads_are_checked(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="bbb", Key="m", Metadata={"k": "v"})["UploadId"]
    here = {"Bucket": "bbb", "Key": "m", "UploadId": upload}
    tags = [s3.upload_part(**here, PartNumber=n, Body=b"x" * 100)["ETag"] for n in (1, 2)]
    assert [p["PartNumber"] for p in s3.list_parts(**here)["Parts"]] == [1, 2]
    assert upload in {u["UploadId"] for u in s3.list_multipart_uploads(Bucket="bbb")["Uploads"]}
    named = [{"PartNumber": n, "ETag": tag} for n, tag in zip((1, 2), tags, strict=True)]
    complete = lambda parts: s3.complete_multipart_upload(**here, MultipartUpload={"Parts": parts})  # noqa: E731
    assert code(lambda: complete(named)) == "EntityTooSmall"
    assert code(lambda: complete(named[::-1])) == "InvalidPartOrder"
    assert code(lambda: complete([{"PartNumber": 7, "ETag": tags[0]}])) == "InvalidPart"
    complete(named[:1])
    got = s3.get_object(Bucket="bbb", Key="m")
    assert (got["Body"].read(), got["Metadata"]) == (b"x" * 100, {"k": "v"})
    assert code(lambda: complete(named[:1])) == "NoSuchUpload"
    other = s3.create_multipart_upload(Bucket="bbb", Key="m2")["UploadId"]
    s3.abort_multipart_upload(Bucket="bbb", Key="m2", UploadId=other)
    assert code(s3.list_parts, Bucket="bbb", Key="m2", UploadId=other) == "NoSuchUpload"


def test_wrong_credentials_are_refused(server: Server) -> None:
    stranger = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["access_key_id"],
        aws_secret_access_key="wrong",
    )
    assert code(stranger.list_buckets) == "SignatureDoesNotMatch"


def test_a_directory_has_one_store(server: Server) -> None:
    command = [server.binary, "--listen", "127.0.0.1:0", "--directory", server.root / "data"]
    command += ["--credentials", server.root / "credentials.json"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode != 0
    assert "another store uses this directory" in second.stderr


def test_credentials_that_others_can_read_are_refused(server: Server, tmp_path: Path) -> None:
    loose = tmp_path / "loose.json"
    loose.write_text(json.dumps(CREDENTIALS))
    loose.chmod(0o644)
    command = [server.binary, "--listen", "127.0.0.1:0", "--directory", tmp_path / "d", "--credentials", loose]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "chmod 600" in done.stderr


def test_what_was_acknowledged_survives_sigkill(binaries: Path, tmp_path: Path) -> None:
    """Writers put and overwrite; the process is killed in the middle, five times over; every acknowledged write is
    there, whole, and every object is one that somebody wrote."""
    server = Server(binaries, tmp_path)
    server.client().create_bucket(Bucket="bbb")
    acknowledged: dict[str, int] = {}
    attempted: dict[str, int] = {}

    def body(key: str, version: int) -> bytes:
        seed = hashlib.sha256(f"{key}:{version}".encode()).digest()
        # Both kinds of place: in the index, and in a file.
        return seed * (9000 if version % 2 else 100)

    def write(worker: int, stop: threading.Event) -> None:
        s3 = server.client()
        n = 0
        while not stop.is_set():
            key = f"{worker}/{n % 5}"
            version = attempted.get(key, 0) + 1
            attempted[key] = version
            try:
                s3.put_object(Bucket="bbb", Key=key, Body=body(key, version))
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                return
            acknowledged[key] = version
            n += 1

    for _ in range(5):
        stop = threading.Event()
        writers = [threading.Thread(target=write, args=(n, stop)) for n in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(0.4)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        stop.set()
        for writer in writers:
            writer.join(timeout=30)
        server.start()
        s3 = server.client()
        for key, version in attempted.items():
            least = acknowledged.get(key, 0)
            if least == 0 and code_or_none(s3, key) == "NoSuchKey":
                continue
            got = s3.get_object(Bucket="bbb", Key=key)["Body"].read()
            assert got in {body(key, v) for v in range(max(least, 1), version + 1)}, key
    assert len(acknowledged) >= 4
    known = {p.name for p in (tmp_path / "data" / "data").iterdir()}
    assert not {n for n in known if n.endswith(".new")}, "what a crash left is collected"
    assert server.end() == 0


def code_or_none(s3: Any, key: str) -> str | None:
    """Error code of a read, if it fails."""
    try:
        s3.get_object(Bucket="bbb", Key=key)
    except botocore.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def test_a_body_that_was_asked_about_and_refused_leaves_no_connection(server):
    host, port = server.endpoint.removeprefix("http://").split(":")
    head = f"PUT /bucket/key HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    following = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        # What a client that was refused sends next arrives before the server looks for the body.
        connection.sendall((head + following).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).lower()
    assert answer.startswith(b"http/1.1 403")
    assert b"connection: close" in answer
    assert answer.count(b"http/1.1") == 1
