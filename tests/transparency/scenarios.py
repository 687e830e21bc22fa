"""One Lambda handler, run with real boto3 on the host and with the shim in an instance; see test_transparency.py.

An event names a scenario and a bucket; the result is the described outcome of each step, exceptions included.
"""

import io
import json
import os
import tempfile
import threading

import boto3
import s3_scenarios
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config
from botocore.stub import Stubber
from describe import describe

client = boto3.client("s3")
MIB = 1 << 20


class Steps:
    """Runs calls and records what each returns or raises."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.log = []
        self.named = []

    def __call__(self, name, call, *args, **kwargs):
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            self.log.append([name, describe(error, self.bucket)])
            return None
        self.log.append([name, describe(value, self.bucket)])
        return value

    def note(self, name, value):
        self.log.append([name, describe(value, self.bucket)])

    def names(self, ids):
        """Ids that the server chose: shown from now on by their number."""
        self.named += ids

    def told(self):
        """The log, with numbers for those ids."""
        text = json.dumps(self.log)
        for number, name in enumerate(self.named):
            text = text.replace(name, f"<id {number}>")
        return json.loads(text)


def put(step, b):
    step("bytes", client.put_object, Bucket=b, Key="a", Body=b"hello")
    step("text", client.put_object, Bucket=b, Key="t", Body="h\u00e4llo")
    step("bytearray", client.put_object, Bucket=b, Key="ba", Body=bytearray(b"xyz"))
    step("memoryview", client.put_object, Bucket=b, Key="mv", Body=memoryview(b"xyz"))
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    step("file", client.put_object, Bucket=b, Key="f", Body=file)
    step.note("position", (file.tell(), file.closed))
    step("file content", lambda: client.get_object(Bucket=b, Key="f")["Body"].read())
    with tempfile.TemporaryFile() as real:
        real.write(b"on disk")
        real.seek(0)
        step("real file", client.put_object, Bucket=b, Key="rf", Body=real)
    step("real file content", lambda: client.get_object(Bucket=b, Key="rf")["Body"].read())
    step("buffered", client.put_object, Bucket=b, Key="br", Body=io.BufferedReader(io.BytesIO(b"no file behind it")))
    step("none", client.put_object, Bucket=b, Key="empty")
    step("empty", client.put_object, Bucket=b, Key="empty2", Body=b"")
    step("empty content", lambda: client.get_object(Bucket=b, Key="empty2")["Body"].read())
    step(
        "everything",
        client.put_object,
        Bucket=b,
        Key="full",
        Body=b"x" * 1000,
        ContentType="text/plain",
        CacheControl="max-age=5",
        ContentDisposition='attachment; filename="a b.txt"',
        ContentEncoding="identity",
        ContentLanguage="en",
        Metadata={"Key-One": "v 1", "two": "2"},
        StorageClass="STANDARD",
    )
    step("everything back", client.get_object, Bucket=b, Key="full")
    step("everything head", client.head_object, Bucket=b, Key="full")
    step("expires", client.put_object, Bucket=b, Key="exp", Body=b"1", Expires="Wed, 21 Oct 2037 07:28:00 GMT")
    step("expires back", client.get_object, Bucket=b, Key="exp")
    step("checksum", client.put_object, Bucket=b, Key="c", Body=b"abc", ChecksumAlgorithm="SHA256")
    step("checksum head", client.head_object, Bucket=b, Key="c", ChecksumMode="ENABLED")
    step("bad metadata", client.put_object, Bucket=b, Key="m", Body=b"", Metadata={"k": "\u00e4"})
    step("wrong type", client.put_object, Bucket=b, Key="w", Body=12)
    step("wrong key", client.put_object, Bucket=b, Key=5, Body=b"")
    step("no key", client.put_object, Bucket=b, Body=b"")
    step("empty key", client.put_object, Bucket=b, Key="", Body=b"")
    step("unknown", client.put_object, Bucket=b, Key="u", Body=b"", Colour="red")
    step("md5", client.put_object, Bucket=b, Key="md5", Body=b"abc", ContentMD5="kAFQmDzST7DWlj99KOF/cg==")


def get(step, b):
    client.put_object(Bucket=b, Key="k", Body=bytes(range(256)) * 16)
    step("get", client.get_object, Bucket=b, Key="k")
    for name, text in {"first": "bytes=0-9", "tail": "bytes=-5", "open": "bytes=4000-", "past": "bytes=9999-"}.items():
        answer = step(f"range {name}", client.get_object, Bucket=b, Key="k", Range=text)
        if answer is not None:
            step(f"range {name} body", answer["Body"].read)
    tag = client.head_object(Bucket=b, Key="k")["ETag"]
    step("if match", client.get_object, Bucket=b, Key="k", IfMatch=tag)
    step("if match fails", client.get_object, Bucket=b, Key="k", IfMatch='"0"')
    step("if none match", client.get_object, Bucket=b, Key="k", IfNoneMatch=tag)
    step("head if none match", client.head_object, Bucket=b, Key="k", IfNoneMatch=tag)
    step("no key", client.get_object, Bucket=b, Key="missing")
    step("head no key", client.head_object, Bucket=b, Key="missing")
    step("no bucket", client.get_object, Bucket=b + "-none", Key="k")
    step("head no bucket", client.head_object, Bucket=b + "-none", Key="k")
    step("bad bucket", client.get_object, Bucket="no/good", Key="k")
    step("override", client.get_object, Bucket=b, Key="k", ResponseContentType="image/x", ResponseCacheControl="no-cache")
    step("no parameters", client.get_object)
    step("positional", client.get_object, b, "k")
    step("checksum off", client.get_object, Bucket=b, Key="k", ChecksumMode="ENABLED")
    try:
        client.get_object(Bucket=b, Key="missing")
    except client.exceptions.NoSuchKey as error:
        step.note("class", (type(error) is client.exceptions.NoSuchKey, error.response["Error"]["Code"]))


def streams(step, b):
    text = b"".join(b"line %d\r\n" % i for i in range(3000))
    client.put_object(Bucket=b, Key="k", Body=text)

    def body():
        return client.get_object(Bucket=b, Key="k")["Body"]

    step("whole", lambda: body().read())
    stream = body()
    step.note("pieces", [stream.read(7), stream.read(0), stream.read(100), stream.tell(), stream.readable()])
    step("rest", stream.read)
    step("after the end", stream.read)
    step("after the end, sized", stream.read, 5)
    step("lines", lambda: list(body().iter_lines())[:5] + list(body().iter_lines(chunk_size=3000, keepends=True))[-2:])
    step("chunks", lambda: [len(chunk) for chunk in body().iter_chunks(1000)])
    step("iterate", lambda: [len(chunk) for chunk in body()])
    step("next", lambda: next(body()))
    target = bytearray(50)
    stream = body()
    step("readinto", lambda: (stream.readinto(target), bytes(target)))
    with body() as raw:
        step("raw", raw.read, 10)
    stream = body()
    stream.read(5)
    step("close", stream.close)
    step("read after close", stream.read, 5)
    step("text wrapper", lambda: io.TextIOWrapper(io.BytesIO(body().read())).readline())
    step("readlines", lambda: len(body().readlines()))
    step("tell", lambda: body().tell())


def listing(step, b):
    keys = ["a b", "\u00fcml\u00e4ut/1", "p/1", "p/2", "p/q/3", "plus+&%25", "quote'\"", "\U0001f600", "~tilde-._"]
    for key in keys:
        step(f"put {key}", client.put_object, Bucket=b, Key=key, Body=key.encode())
        step(f"get {key}", lambda key=key: client.get_object(Bucket=b, Key=key)["Body"].read())
    step("all", client.list_objects_v2, Bucket=b)
    step("prefix", client.list_objects_v2, Bucket=b, Prefix="p/", Delimiter="/")
    step("encoded", client.list_objects_v2, Bucket=b, EncodingType="url")
    step("few", client.list_objects_v2, Bucket=b, MaxKeys=2)
    step("after", client.list_objects_v2, Bucket=b, StartAfter="p/1", FetchOwner=True)
    step("none", client.list_objects_v2, Bucket=b, Prefix="zzz")
    step("no bucket", client.list_objects_v2, Bucket=b + "-none")
    step("wrong type", client.list_objects_v2, Bucket=b, MaxKeys="2")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=b, PaginationConfig={"PageSize": 3})
    step("pages", lambda: [[item["Key"] for item in page.get("Contents", [])] for page in pages])
    step("old list", lambda: [o["Key"] for o in client.list_objects(Bucket=b)["Contents"]])
    step("search", lambda: list(pages.search("Contents[?Size > `4`].Key")))


def others(step, b):
    client.put_object(Bucket=b, Key="src \u00fc", Body=b"source", Metadata={"a": "1"}, ContentType="text/x")
    step("copy", client.copy_object, Bucket=b, Key="copy", CopySource={"Bucket": b, "Key": "src \u00fc"})
    step("copy text", client.copy_object, Bucket=b, Key="copy2", CopySource=f"{b}/src \u00fc")
    step(
        "copy replace",
        client.copy_object,
        Bucket=b,
        Key="copy3",
        CopySource={"Bucket": b, "Key": "src \u00fc"},
        Metadata={"b": "2"},
        MetadataDirective="REPLACE",
    )
    for key in ("copy", "copy2", "copy3"):
        step(f"head {key}", client.head_object, Bucket=b, Key=key)
    step("copy missing", client.copy_object, Bucket=b, Key="x", CopySource={"Bucket": b, "Key": "none"})
    step("copy bad", client.copy_object, Bucket=b, Key="x", CopySource={"Bucket": b})
    step("delete", client.delete_object, Bucket=b, Key="copy")
    step("delete again", client.delete_object, Bucket=b, Key="copy")
    step("delete many", client.delete_objects, Bucket=b, Delete={"Objects": [{"Key": "copy2"}, {"Key": "copy3"}]})
    step("buckets", lambda: sorted(x["Name"] for x in client.list_buckets()["Buckets"] if x["Name"].startswith(b)))
    step("create", client.create_bucket, Bucket=b + "-second")
    step("create again", lambda: client.create_bucket(Bucket=b + "-second")["ResponseMetadata"]["HTTPStatusCode"])
    step("create bad", client.create_bucket, Bucket="Bad_Name!")
    step("head bucket", client.head_bucket, Bucket=b)
    step("head no bucket", client.head_bucket, Bucket=b + "-none")
    step("delete bucket", client.delete_bucket, Bucket=b + "-second")
    step("waiter", client.get_waiter("object_exists").wait, Bucket=b, Key="src \u00fc")
    step(
        "waiter fails",
        client.get_waiter("object_exists").wait,
        Bucket=b,
        Key="none",
        WaiterConfig={"Delay": 0, "MaxAttempts": 2},
    )
    step("tagging", client.put_object_tagging, Bucket=b, Key="src \u00fc", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    step("tagging back", client.get_object_tagging, Bucket=b, Key="src \u00fc")


def resources(step, b):
    s3 = boto3.resource("s3")
    obj = s3.Object(b, "r/1")
    step("put", obj.put, Body=b"resource", Metadata={"m": "1"})
    step("get", lambda: obj.get()["Body"].read())
    step("attributes", lambda: (obj.content_length, obj.e_tag, obj.metadata, obj.content_type))
    bucket = s3.Bucket(b)
    bucket.put_object(Key="r/2", Body=b"two")
    step("filter", lambda: [item.key for item in bucket.objects.filter(Prefix="r/")])
    step(
        "copy from",
        lambda: s3.Object(b, "r/3").copy_from(CopySource={"Bucket": b, "Key": "r/1"})["CopyObjectResult"].keys() and 1,
    )
    step("load missing", s3.Object(b, "none").load)
    step("delete", lambda: len(bucket.objects.filter(Prefix="r/").delete()))
    step("exception", s3.meta.client.get_object, Bucket=b, Key="none")


def transfers(step, b):
    data = os.urandom(1 << 16) * 320
    step.note("size", len(data))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "in")
        with open(path, "wb") as file:
            file.write(data)
        seen = []
        step("upload", client.upload_file, path, b, "big", Callback=seen.append)
        step.note("progress", sum(seen))
        step("parts", lambda: client.head_object(Bucket=b, Key="big")["ContentLength"])
        back = os.path.join(folder, "out")
        seen.clear()
        step("download", client.download_file, b, "big", back, Callback=seen.append)
        step.note("progress", sum(seen))
        with open(back, "rb") as file:
            step.note("same", file.read() == data)
        step("small", client.upload_file, __file__, b, "small", ExtraArgs={"ContentType": "text/x-python"})
        step("small head", lambda: client.head_object(Bucket=b, Key="small")["ContentType"])
        step("missing", client.download_file, b, "none", back)
        step("no file", client.upload_file, os.path.join(folder, "none"), b, "x")
    target = io.BytesIO()
    config = TransferConfig(multipart_chunksize=5 * MIB, multipart_threshold=5 * MIB, max_concurrency=10)
    step("fileobj", client.download_fileobj, b, "big", target, Config=config)
    step.note("same", target.getvalue() == data)
    step("upload fileobj", client.upload_fileobj, io.BytesIO(data), b, "big2", Config=config)
    step("copied", client.copy, {"Bucket": b, "Key": "big"}, b, "big3")
    step("whole", lambda: client.get_object(Bucket=b, Key="big2")["Body"].read() == data)
    step("put whole", lambda: client.put_object(Bucket=b, Key="big4", Body=data)["ResponseMetadata"]["HTTPStatusCode"])
    step("put whole back", lambda: client.get_object(Bucket=b, Key="big4")["Body"].read() == data)
    unread = [client.get_object(Bucket=b, Key="big")["Body"] for _ in range(12)]
    step("unread", lambda: [len(body.read(MIB)) for body in unread])
    step("others go on", lambda: client.get_object(Bucket=b, Key="small")["ContentType"])
    for body in unread:
        body.close()


def hooks(step, b):
    own = boto3.client("s3")
    seen = []
    own.meta.events.register("before-call.s3.PutObject", lambda params, **_: params["headers"].update({"x-amz-meta-hook": "1"}))
    own.meta.events.register("after-call.s3.PutObject", lambda parsed, **_: seen.append(sorted(parsed)))
    step("hooked", own.put_object, Bucket=b, Key="h", Body=b"1")
    step.note("seen", len(seen))
    step("metadata", lambda: client.head_object(Bucket=b, Key="h")["Metadata"])
    own = boto3.client("s3")
    resolved = []
    own.meta.events.register("before-endpoint-resolution.s3", lambda params, **_: resolved.append(sorted(params)))
    step("resolved", lambda: (own.head_object(Bucket=b, Key="h")["ContentLength"], resolved))
    own = boto3.client("s3")
    own.meta.events.register("provide-client-params.s3.GetObject", lambda params, **_: {**params, "Key": "h"})
    step("provided", lambda: own.get_object(Bucket=b, Key="other")["Body"].read())
    stubbed = boto3.client("s3")
    with Stubber(stubbed) as stubber:
        stubber.add_response("list_buckets", {"Buckets": [{"Name": "stub"}]})
        stubber.add_client_error("get_object", "TeapotError", "short and stout", 418)
        step("stub", stubbed.list_buckets)
        step("stub error", stubbed.get_object, Bucket=b, Key="k")
        step("stub empty", stubbed.list_buckets)
    step("unstubbed", lambda: stubbed.get_object(Bucket=b, Key="h")["Body"].read())


def _fails(call, **parameters):
    try:
        call(**parameters)
    except Exception:
        return True
    return False


def configured(step, b):
    client.put_object(Bucket=b, Key="k", Body=b"v")
    before = {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    try:
        # Nobody is there, and another host is not reached instead.
        os.environ["AWS_ENDPOINT_URL_S3"] = "http://127.0.0.1:1"
        elsewhere = boto3.client("s3", config=Config(retries={"max_attempts": 0}))
        step.note(
            "elsewhere",
            (
                elsewhere.meta.endpoint_url,
                *(_fails(call, Bucket=b, Key="k") for call in (elsewhere.get_object, elsewhere.put_object)),
            ),
        )
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    for name, config in {
        "path": Config(s3={"addressing_style": "path"}),
        "retries": Config(retries={"max_attempts": 1, "mode": "adaptive"}),
        "timeouts": Config(connect_timeout=3, read_timeout=4),
        "pool": Config(max_pool_connections=50),
        "no checksums": Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
        "agent": Config(user_agent_extra="mine/1"),
    }.items():
        own = boto3.client("s3", config=config)
        step(f"{name} put", own.put_object, Bucket=b, Key="k", Body=b"v2")
        step(f"{name} get", own.get_object, Bucket=b, Key="k")
    other = boto3.session.Session(region_name="eu-west-1").client("s3")
    step("region", lambda: (other.meta.region_name, other.get_object(Bucket=b, Key="k")["Body"].read()))
    step("no region", boto3.client, "dynamodb", region_name="")
    step("unknown service", boto3.client, "no-such-service")


def threads(step, b):
    client.put_object(Bucket=b, Key="shared", Body=b"s" * 100_000)
    failures = []

    def work(number):
        try:
            for turn in range(3):
                key = f"t/{number}"
                body = bytes([number]) * (1000 * (turn + 1) * (number + 1))
                client.put_object(Bucket=b, Key=key, Body=body)
                assert client.get_object(Bucket=b, Key=key)["Body"].read() == body
                assert len(client.get_object(Bucket=b, Key="shared")["Body"].read()) == 100_000
        except BaseException as error:
            failures.append(repr(error))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    step.note("failures", failures)
    step("count", lambda: client.list_objects_v2(Bucket=b, Prefix="t/")["KeyCount"])


def services(step, b, event):
    own = {"endpoint_url": event["stub"], "region_name": "eu-west-1"}
    dynamodb = boto3.client("dynamodb", **own)
    step("item", dynamodb.get_item, TableName="t", Key={"id": {"S": "1"}})
    step("table", lambda: boto3.resource("dynamodb", **own).Table("t").get_item(Key={"id": "1"})["Item"])
    step("error", dynamodb.get_item, TableName="missing", Key={"id": {"S": "1"}})
    step("validation", dynamodb.get_item, TableName="t")
    step("identity", boto3.client("sts", **own).get_caller_identity)
    step("queue", boto3.client("sqs", **own).send_message, QueueUrl=event["stub"] + "/q", MessageBody="m")
    once = Config(retries={"total_max_attempts": 1}, read_timeout=1)
    step("cut off", boto3.client("dynamodb", config=once, **own).get_item, TableName="cut", Key={"id": {"S": "1"}})
    step("too slow", boto3.client("dynamodb", config=once, **own).get_item, TableName="slow", Key={"id": {"S": "1"}})
    step("broken off", boto3.client("s3", config=once, **own).get_object, Bucket="broken", Key="k")
    body = step("half", lambda: boto3.client("s3", config=once, **own).get_object(Bucket="half", Key="k")["Body"])
    body = boto3.client("s3", **own).get_object(Bucket="half", Key="k")["Body"]
    step("read half", body.read)
    body = boto3.client("s3", **own).get_object(Bucket="half", Key="k")["Body"]
    step("read sized", lambda: [len(body.read(600)), body.read(600)])
    retried = boto3.client("dynamodb", **own)
    step("retried", retried.get_item, TableName="busy", Key={"id": {"S": "1"}})
    step("s3 retried", boto3.client("s3", **own).list_objects_v2, Bucket="busy")


def unreachable(step, b, event):
    dead = boto3.client("s3", endpoint_url="http://127.0.0.1:1", config=Config(retries={"total_max_attempts": 1}))
    step("dead", dead.get_object, Bucket=b, Key="k")
    dead = boto3.client("s3", endpoint_url="http://127.0.0.1:1")
    step("dead, by default", dead.get_object, Bucket=b, Key="k")


def explicit(step, b, event):
    key, secret = event["credentials"]
    own = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret)
    step("put", own.put_object, Bucket=b, Key="k", Body=b"mine")
    step("get", lambda: own.get_object(Bucket=b, Key="k")["Body"].read())
    session = boto3.session.Session(aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")
    step("session", lambda: session.resource("s3").Object(b, "k").get()["Body"].read())
    anonymous = boto3.client("s3", config=Config(signature_version=UNSIGNED))
    step("anonymous", anonymous.get_object, Bucket=b, Key="k")
    wrong = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key="wrong")
    step("wrong secret", wrong.get_object, Bucket=b, Key="k")
    step("no such profile", boto3.session.Session, profile_name="somebody")
    with tempfile.TemporaryDirectory() as folder:
        # Files of a function's own; what a profile runs or names is looked for inside.
        path = os.path.join(folder, "config")
        with open(path, "w") as file:
            file.write(f"[profile own]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\nregion = us-east-1\n")
            file.write("[profile runs]\ncredential_process = /nonexistent/program\nregion = us-east-1\n")
        os.environ["AWS_CONFIG_FILE"] = path
        try:
            named = boto3.session.Session(profile_name="own").client("s3")
            step("profile", lambda: named.get_object(Bucket=b, Key="k")["Body"].read())
            runs = boto3.session.Session(profile_name="runs")
            step("process", lambda: type(runs.get_credentials().access_key))
        finally:
            del os.environ["AWS_CONFIG_FILE"]
    step(
        "no CA file",
        lambda: boto3.client("s3", verify="/nonexistent/ca.pem", endpoint_url="https://127.0.0.1:1").meta.region_name,
    )
    step("presigned", lambda: own.generate_presigned_url("get_object", Params={"Bucket": b, "Key": "k"}).split("?")[0])
    fields = own.generate_presigned_post(b, "k")
    step("post", lambda: sorted(fields["fields"]))


def event_streams(step, b, event):
    own = {"endpoint_url": event["stub"], "region_name": "us-east-1"}
    dynamodb, functions = boto3.client("dynamodb", **own), boto3.client("lambda", **own)

    def invoked():
        answer = functions.invoke_with_response_stream(FunctionName=b, Payload=b"{}")
        parts = iter(answer["EventStream"])
        first = next(parts)
        dynamodb.get_item(TableName=f"go-on-{b}", Key={"id": {"S": "1"}})
        return [type(answer["EventStream"]).__qualname__, answer["StatusCode"], first, *parts]

    step("invoked", invoked)

    def left():
        answer = functions.invoke_with_response_stream(FunctionName=b, Payload=b"{}")
        first = next(iter(answer["EventStream"]))
        answer["EventStream"].close()
        return first

    step("left", left)

    def parts(call, member, **arguments):
        got = []
        try:
            got.extend(call(**arguments)[member])
        finally:
            step.note("so far", got)

    kinesis = boto3.client("kinesis", **own)
    shard = {"ConsumerARN": "arn:aws:kinesis:us-east-1:000000000001:stream/s/consumer/c:1", "ShardId": "shard-0"}
    step("subscribed", parts, kinesis.subscribe_to_shard, "EventStream", **shard, StartingPosition={"Type": "LATEST"})
    runtime = boto3.client("bedrock-runtime", **own)
    step("inferred", parts, runtime.invoke_model_with_response_stream, "body", modelId="m", body=b"{}")
    s3 = boto3.client("s3", **own)
    query = {"ExpressionType": "SQL", "Expression": "SELECT * FROM S3Object"}
    formats = {"InputSerialization": {"CSV": {}}, "OutputSerialization": {"CSV": {}}}
    for bucket in ("whole", "fails", "cut"):
        step(f"selected {bucket}", parts, s3.select_object_content, "Payload", Bucket=bucket, Key="k", **query, **formats)
    step("after", dynamodb.get_item, TableName="t", Key={"id": {"S": "1"}})


SCENARIOS = [put, get, streams, listing, others, resources, transfers, hooks, configured, threads, *s3_scenarios.SCENARIOS]
WITH_EVENT = [services, event_streams, explicit, unreachable]


def handler(event, context):
    bucket = event["bucket"]
    client.create_bucket(Bucket=bucket)
    step = Steps(bucket)
    name = event["scenario"]
    for scenario in SCENARIOS:
        if scenario.__name__ == name:
            scenario(step, bucket)
    for scenario in WITH_EVENT:
        if scenario.__name__ == name:
            scenario(step, bucket, event)
    return step.told()
