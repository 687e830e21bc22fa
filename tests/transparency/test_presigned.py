"""What a function signs works for those it is given to, and no longer than the node allows."""

import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def send(method, url, data=None, **headers):
    """Status, body and headers of a plain request."""
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def form_data(fields, content):
    mark = uuid.uuid4().hex
    parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    parts.append(
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n\r\n{content}\r\n--{mark}--\r\n'
    )
    return "".join(parts).encode(), f"multipart/form-data; boundary={mark}"


@pytest.mark.parametrize("offload", ["api", "http"])
def test_signed_urls_and_forms(node, offload):
    bucket = f"signed-{uuid.uuid4().hex[:8]}"
    node.s3.create_bucket(Bucket=bucket)
    name = f"presigning-{offload}"
    node.deploy(name, HERE, handler="presigning.handler", memory_mib=512, offload=offload)
    made, response = node.invoke(name, {"bucket": bucket})
    assert not response.get("FunctionError"), made
    urls = made["urls"]
    made_at = time.monotonic()
    query = {name: dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)) for name, url in urls.items()}

    status, text, _ = send("PUT", urls["put"], b"content", **{"Content-Type": "text/x", "x-amz-meta-a": "1"})
    assert status == 200, text
    status, body, headers = send("GET", urls["get"])
    assert (status, body, headers["Content-Type"], headers["x-amz-meta-a"]) == (200, b"content", "text/x", "1")
    assert send("GET", urls["v4"])[1] == b"content"
    assert send("GET", urls["other name"])[2]["Content-Disposition"] == 'attachment; filename="a b"'
    assert send("PUT", urls["get"], b"x")[0] == 403, "signed for another method"
    assert send("GET", urls["get"].replace("signed", "other"))[0] == 403, "signed for another key"

    content, kind = form_data(made["form"]["fields"], "by form")
    status, text, _ = send("POST", made["form"]["url"], content, **{"Content-Type": kind})
    assert status in {200, 204}, text
    assert node.s3.get_object(Bucket=bucket, Key="form/f.txt")["Body"].read() == b"by form"
    content, kind = form_data(made["form"]["fields"], "longer than the policy allows")
    assert send("POST", made["form"]["url"], content, **{"Content-Type": kind})[0] in {400, 403}

    assert query["get"]["X-Amz-Expires"] == "60"
    assert query["long"]["X-Amz-Expires"] == str(12 * 3600), "capped"
    token = dict(urllib.parse.parse_qsl(urls["token"].partition("?")[2]))
    assert urls["token"].startswith("db.example.com:5432/?Action=connect&DBUser=me&")
    assert (token["X-Amz-Expires"], token["X-Amz-SignedHeaders"]) == ("900", "host")
    assert token["X-Amz-Credential"].startswith(node.credentials["access_key_id"])
    assert "/sts/aws4_request" in query["identity"]["X-Amz-Credential"]
    assert made["denied"] == "AccessDenied"
    time.sleep(max(0.0, 2.1 - (time.monotonic() - made_at)))
    assert send("GET", urls["short"])[0] == 403, "expired"
    assert send("DELETE", urls["delete"])[0] == 204
    assert send("GET", urls["get"])[0] == 404
    assert node.credentials["secret_access_key"] not in str(made)
