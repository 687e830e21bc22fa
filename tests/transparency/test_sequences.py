"""Sequences of S3 operations, made up by hypothesis, natively and through the shim: the same answers, the same bucket."""

import datetime as dt
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("NEXUS_SEQUENCES", "12"))

KEYS = st.sampled_from(["a", "b", "dir/a", "dir/b c", "\u00fc+&", "x" * 200])
BODIES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"z" * 70_000, b"q" * 300_000])).map(
    lambda b: b.decode("latin-1")
)
TAG = st.sampled_from(["@etag", '"0"', "*"])
RANGES = st.sampled_from(["bytes=0-0", "bytes=1-5", "bytes=-3", "bytes=5-", "bytes=999999-", "nonsense"])
META = st.dictionaries(st.sampled_from(["a", "b-c"]), st.sampled_from(["", "1", "a  b", "\u00e4"]), max_size=2)
SUM = st.sampled_from(["CRC32", "SHA1", "SHA256", "CRC32C"])


def call(name, required, optional):
    return st.fixed_dictionaries(required, optional=optional).map(lambda params: [name, params])


KEYED = {"Key": KEYS}
OPERATIONS = st.one_of(
    call("put_object", {**KEYED, "Body": BODIES}, optional={
        "Metadata": META, "ContentType": st.sampled_from(["text/x", ""]), "IfNoneMatch": st.just("*"), "IfMatch": TAG,
        "ChecksumAlgorithm": SUM, "Tagging": st.sampled_from(["a=1", "a=1&a=2"]), "CacheControl": st.just("no-store")}),
    call("get_object", KEYED, {"Range": RANGES, "IfMatch": TAG, "IfNoneMatch": TAG, "PartNumber": st.integers(0, 2), "ChecksumMode": st.just("ENABLED")}),
    call("head_object", KEYED, {"IfNoneMatch": TAG, "IfModifiedSince": st.just("@past"), "ChecksumMode": st.just("ENABLED")}),
    call("delete_object", KEYED, {}),
    call("delete_objects", {"Delete": st.lists(KEYS, max_size=3).map(lambda keys: {"Objects": [{"Key": k} for k in keys]})}, {}),
    call("copy_object", {**KEYED, "CopySource": KEYS.map(lambda key: {"Bucket": "@bucket", "Key": key})},
         {"MetadataDirective": st.sampled_from(["COPY", "REPLACE"]), "Metadata": META, "CopySourceIfMatch": TAG}),
    call("list_objects_v2", {}, {"Prefix": st.sampled_from(["", "dir/", "z"]), "Delimiter": st.just("/"), "MaxKeys": st.integers(-1, 3), "StartAfter": KEYS}),
    call("list_objects", {}, {"Prefix": st.sampled_from(["", "dir/"]), "MaxKeys": st.integers(0, 3), "Marker": KEYS}),
    call("list_object_versions", {}, {"Delimiter": st.just("/"), "MaxKeys": st.integers(1, 3)}),
    call("put_object_tagging", {**KEYED, "Tagging": st.sampled_from([{"TagSet": []}, {"TagSet": [{"Key": "k", "Value": "v"}]}])}, {}),
    call("get_object_tagging", KEYED, {}),
    call("delete_object_tagging", KEYED, {}),
    call("get_object_attributes", {**KEYED, "ObjectAttributes": st.sampled_from([["ETag"], ["ObjectSize", "Checksum"]])}, {}),
    call("get_bucket_location", {}, {}),
)  # fmt: skip


class Native:
    """Real boto3 in a process of its own, fed with one sequence a line."""

    def __init__(self, endpoint, key, secret):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HERE),
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": endpoint,
        }
        program = "import json, sys, sequences\nfor line in sys.stdin: print(json.dumps(sequences.handler(json.loads(line), None)), flush=True)"
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, event):
        self.process.stdin.write(json.dumps(event) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def both(node):
    if node.isolation == "process":
        pytest.skip("in microVMs only")
    node.deploy("sequences", HERE, handler="sequences.handler", memory_mib=512, timeout_s=60)
    native = Native(node.store_endpoint, node.credentials["access_key_id"], node.credentials["secret_access_key"])

    def inside(event):
        payload, response = node.invoke("sequences", event)
        assert not response.get("FunctionError"), f"{payload}\n{node.logs('sequences')}"
        return payload

    yield native, inside
    native.close()


@pytest.mark.timeout(600)
def test_any_sequence_has_the_same_outcome(both):
    native, inside = both

    @settings(
        max_examples=EXAMPLES,
        deadline=dt.timedelta(seconds=120),
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(OPERATIONS, min_size=5, max_size=25))
    def run(operations):
        mark = uuid.uuid4().hex[:8]
        expected = native({"bucket": f"native-{mark}", "operations": operations})
        actual = inside({"bucket": f"shimmd-{mark}", "operations": operations})
        different = [
            (op, left, right)
            for op, left, right in zip([*operations, "bucket"], expected, actual, strict=True)
            if left != right
        ]
        assert not different, "\n".join(f"{op}\nnative {left}\nshim   {right}" for op, left, right in different)

    run()
