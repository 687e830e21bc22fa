"""Packages that reach S3 their own way, as a function uses them; run natively and in an instance."""

import asyncio
import hashlib
import importlib
import io
import json

import boto3
from describe import describe

client = boto3.client("s3")


class Steps:
    """Runs calls and records what each returns or raises."""

    def __init__(self, bucket):
        self.log, self.bucket = [], bucket

    def __call__(self, name, call, *args, **kwargs):
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            value = error
        self.log.append([name, describe(value, self.bucket)])


def powertools(step, b):
    from aws_lambda_powertools import Logger, Metrics, Tracer  # noqa: F401
    from aws_lambda_powertools.utilities.data_classes import S3Event
    from aws_lambda_powertools.utilities.streaming.s3_object import S3Object

    own = boto3.client("s3")
    step("put", own.put_object, Bucket=b, Key="k", Body=b"line 1\nline 2\n")
    step("stream", lambda: list(S3Object(bucket=b, key="k")))
    record = {"s3": {"bucket": {"name": b}, "object": {"key": "k"}}}
    step("event", lambda: [r.s3.get_object.key for r in S3Event({"Records": [record]}).records])


def smart(step, b):
    import smart_open

    text = "".join(f"line {n}\n" for n in range(400_000))
    params = {"transport_params": {"min_part_size": 5 << 20}}
    with smart_open.open(f"s3://{b}/big.txt.gz", "wt", **params) as file:
        file.write(text)
    with smart_open.open(f"s3://{b}/plain.txt", "w", **params) as file:
        file.write(text)
    step("lines", lambda: sum(1 for _ in smart_open.open(f"s3://{b}/big.txt.gz")))
    with smart_open.open(f"s3://{b}/plain.txt", "rb") as file:
        file.seek(2_000_000)
        step("seek", file.read, 20)
        step("readline", file.readline)
    step("missing", smart_open.open, f"s3://{b}/none")
    step("tags", lambda: client.head_object(Bucket=b, Key="plain.txt")["ContentLength"])


def files(step, b):
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    data = bytes(range(256)) * 4096 * 12
    with fs.open(f"{b}/dir/a.bin", "wb", block_size=5 << 20) as file:
        file.write(data)
    fs.pipe(f"{b}/dir/b.txt", b"hello")
    step("ls", lambda: sorted(path.partition("/")[2] for path in fs.ls(f"{b}/dir")))
    step("info", lambda: {k: v for k, v in fs.info(f"{b}/dir/b.txt").items() if k in {"size", "type", "ETag", "ContentType"}})
    step("cat", fs.cat, f"{b}/dir/b.txt")
    step("part", fs.cat_file, f"{b}/dir/a.bin", start=100, end=120)
    step("whole", lambda: hashlib.sha256(fs.open(f"{b}/dir/a.bin").read()).hexdigest() == hashlib.sha256(data).hexdigest())
    step("find", lambda: len(fs.find(b)))
    step("missing", fs.cat, f"{b}/none")
    fs.cp(f"{b}/dir/b.txt", f"{b}/dir/c.txt")
    fs.rm(f"{b}/dir/b.txt")
    fs.invalidate_cache()
    step("after", lambda: sorted(path.rpartition("/")[2] for path in fs.ls(f"{b}/dir")))
    step("exists", lambda: (fs.exists(f"{b}/dir/c.txt"), fs.exists(f"{b}/dir/b.txt"), fs.isdir(f"{b}/dir")))
    step("url", lambda: "X-Amz-Signature=" in fs.sign(f"{b}/dir/c.txt") or "Signature=" in fs.sign(f"{b}/dir/c.txt"))


def aio(step, b):
    from aiobotocore.session import get_session

    async def work():
        async with get_session().create_client("s3") as s3:
            put = await s3.put_object(Bucket=b, Key="a", Body=b"async" * 1000, Metadata={"m": "1"})
            got = await s3.get_object(Bucket=b, Key="a")
            async with got["Body"] as body:
                start, rest = await body.read(10), await body.read()
            many = [s3.put_object(Bucket=b, Key=f"n/{n}", Body=bytes([n]) * 1000) for n in range(40)]
            await asyncio.gather(*many)
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=b, Prefix="n/", PaginationConfig={"PageSize": 15})
            names = [len(page["Contents"]) async for page in pages]
            try:
                await s3.get_object(Bucket=b, Key="none")
                missing = None
            except s3.exceptions.NoSuchKey as error:
                missing = error
            lines = (await s3.get_object(Bucket=b, Key="a"))["Body"].iter_chunks(1024)
            sizes = [len(chunk) async for chunk in lines]
            big = bytes(9 << 20)
            await s3.put_object(Bucket=b, Key="big", Body=io.BytesIO(big))
            head = await s3.head_object(Bucket=b, Key="big")
            for answer in (put, got, head):
                answer["ResponseMetadata"].pop("HTTPHeaders")
                answer.pop("Body", None)
            return [put, got, start, rest, names, missing, sum(sizes), head]

    step("all", lambda: asyncio.run(work()))


def signed(step, b, event):
    """Requests that a package of the function's own signs, with keys of its own, for the store."""
    import requests
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from requests_aws4auth import AWS4Auth

    (key, secret), store = event["keys"], event["store"]
    auth = AWS4Auth(key, secret, "us-east-1", "s3")

    def show(answer):
        kept = {
            n: v for n, v in answer.headers.items() if n.lower() in {"content-length", "content-type", "etag", "x-amz-meta-m"}
        }
        code = answer.text.partition("<Code>")[2].partition("</Code>")[0]
        return [answer.status_code, answer.reason, kept, code or answer.content[:40], str(answer.url).replace(store, "<store>")]

    step("put", lambda: show(requests.put(f"{store}/{b}/k", data=b"signed", auth=auth, headers={"x-amz-meta-m": "1"})))
    step("get", lambda: show(requests.get(f"{store}/{b}/k", auth=auth)))
    step("query", lambda: show(requests.get(f"{store}/{b}", params={"list-type": "2", "prefix": "k"}, auth=auth)))
    step("name", lambda: show(requests.put(f"{store}/{b}/a%20b%2Bc", data="text", auth=auth)))
    step("upload", lambda: show(requests.put(f"{store}/{b}/big", data=bytes(3 << 20), auth=auth)))
    step("head", lambda: show(requests.head(f"{store}/{b}/big", auth=auth)))
    step("streamed", lambda: sum(map(len, requests.get(f"{store}/{b}/big", auth=auth, stream=True).iter_content(70_000))))
    with requests.Session() as session:
        session.auth = auth
        step("session", lambda: [show(session.get(f"{store}/{b}/{name}")) for name in ("k", "none")])
    step("unsigned", lambda: show(requests.get(f"{store}/{b}/k")))
    step("wrong key", lambda: show(requests.get(f"{store}/{b}/k", auth=AWS4Auth(key, "wrong", "us-east-1", "s3"))))

    def by_hand(method, name, body=None):
        request = AWSRequest(method=method, url=f"{store}/{b}/{name}", data=body)
        S3SigV4Auth(Credentials(key, secret), "s3", "us-east-1").add_auth(request)
        return show(requests.request(method, request.url, data=body, headers=dict(request.headers)))

    step("by hand", lambda: [by_hand("PUT", "hand", b"mine"), by_hand("GET", "hand"), by_hand("DELETE", "hand")])


def data(step, b):
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame({"n": np.arange(100_000), "x": np.linspace(0, 1, 100_000), "s": ["text"] * 100_000})
    path = f"s3://{b}/frame.parquet"
    step("write", frame.to_parquet, path)
    step("read", lambda: pd.read_parquet(path).equals(frame))
    step("columns", lambda: float(pd.read_parquet(path, columns=["n"])["n"].sum()))
    step("csv", frame.head(1000).to_csv, f"s3://{b}/f.csv", index=False)
    step("csv back", lambda: pd.read_csv(f"s3://{b}/f.csv").shape)
    step("missing", pd.read_csv, f"s3://{b}/none.csv")


SCENARIOS = {f.__name__: f for f in (powertools, smart, files, aio, data)}
WITH_EVENT = {"signed": signed}
# Imported before the snapshot, as a function's module would.
for name in ("s3fs", "smart_open", "aws_lambda_powertools"):
    importlib.import_module(name)


def handler(event, context):
    client.create_bucket(Bucket=event["bucket"])
    step = Steps(event["bucket"])
    name = event["scenario"]
    if name in SCENARIOS:
        SCENARIOS[name](step, event["bucket"])
    else:
        WITH_EVENT[name](step, event["bucket"], event)
    return json.loads(json.dumps(step.log))
