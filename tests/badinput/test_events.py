"""Whatever a handler or an event does, the caller gets Lambda's error, the log a line, and the node goes on."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HANDLERS = Path(__file__).parent.parent / "handlers"
REQUEST_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def bad(node: Any) -> Any:
    """A node with the misbehaving function and a well-behaved neighbour."""
    node.s3.create_bucket(Bucket="things")
    node.s3.put_object(Bucket="things", Key="one", Body=b"1" * 1000)
    node.deploy("bad", HANDLERS / "bad.py", memory_mib=256, timeout_s=4, max_instances=2)
    # Each line is an exit, at least: on a busy machine 24 MiB of them take their time.
    node.deploy("printer", HANDLERS / "bad.py", memory_mib=128, timeout_s=60)
    node.deploy("hog", HANDLERS / "bad.py", memory_mib=128, timeout_s=60)
    node.deploy("neighbour", HANDLERS / "bad.py", memory_mib=128, timeout_s=10)
    return node


@pytest.fixture(autouse=True)
def _still_serving(bad: Any) -> Any:
    """After every test the neighbour answers, and so does the function itself."""
    yield
    for name in ("neighbour", "bad"):
        payload, response = bad.invoke(name, {"do": "nothing", "echo": 7})
        assert payload["echo"] == 7, payload
        assert "FunctionError" not in response


def fails(node: Any, event: dict[str, Any], name: str = "bad") -> dict[str, Any]:
    """Invoke and return the error object; the response is marked as an unhandled error."""
    payload, response = node.invoke(name, event)
    assert response["StatusCode"] == 200
    assert response["FunctionError"] == "Unhandled"
    assert isinstance(payload["errorMessage"], str)
    assert isinstance(payload["errorType"], str)
    return payload


def test_exception_carries_type_message_and_trace(bad: Any) -> None:
    error = fails(bad, {"do": "raise"})
    assert error["errorType"] == "ValueError"
    assert error["errorMessage"] == "the cat is out of the bag"
    assert re.fullmatch(REQUEST_ID, error["requestId"])
    trace = "".join(error["stackTrace"])
    assert "in inner" in trace
    assert "bad.py" in trace
    assert "nexus/guest" not in trace, "the runtime's own frames are not the user's business"
    assert "[ERROR] ValueError: the cat is out of the bag" in bad.logs("bad")


def test_result_that_json_cannot_carry(bad: Any) -> None:
    error = fails(bad, {"do": "unserialisable"})
    assert error["errorType"] == "Runtime.MarshalError"
    assert "Peculiar is not JSON serializable" in error["errorMessage"]


def test_megabytes_of_output_are_bounded_and_do_not_block(bad: Any) -> None:
    response = bad.lambda_client.invoke(
        FunctionName="printer", LogType="Tail", Payload=json.dumps({"do": "print", "kib": 24 * 1024})
    )
    assert json.load(response["Payload"]) == 24 * 1024
    tail = base64.b64decode(response["LogResult"])
    assert 0 < len(tail) <= 4096
    logged = sum(f.stat().st_size for f in bad.state.rglob("*") if f.is_file() and ".log" in f.name)
    assert logged < 64 << 20


def test_allocation_past_the_limit_is_an_error(bad: Any) -> None:
    error = fails(bad, {"do": "hog", "mib": 1024}, "hog")
    assert error["errorType"] in {"MemoryError", "Runtime.OutOfMemory", "Runtime.ExitError"}


def test_allocation_within_the_limit_succeeds(bad: Any) -> None:
    payload, response = bad.invoke("bad", {"do": "hog", "mib": 64})
    assert "FunctionError" not in response
    assert payload == 64


@pytest.mark.parametrize("event", [{"do": "sleep", "seconds": 60}, {"do": "spin"}], ids=["sleeps", "spins"])
def test_handler_that_never_returns_times_out(bad: Any, event: dict[str, Any]) -> None:
    error = fails(bad, event)
    assert error["errorType"] == "Sandbox.Timedout"
    assert re.fullmatch(f"RequestId: {REQUEST_ID} Error: Task timed out after 4.00 seconds", error["errorMessage"])
    assert "Task timed out after 4.00 seconds" in bad.logs("bad")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"do": "os_exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "os_exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "segfault"}, "Runtime exited with error: signal: segmentation fault"),
    ],
    ids=["exit-3", "exit-0", "segfault"],
)
def test_death_of_the_runtime_is_reported(bad: Any, event: dict[str, Any], says: str) -> None:
    error = fails(bad, event)
    assert error["errorType"] == "Runtime.ExitError"
    assert re.fullmatch(f"RequestId: {REQUEST_ID} Error: {re.escape(says)}", error["errorMessage"])
    assert says in bad.logs("bad")


def test_sys_exit_ends_the_instance_with_an_error(bad: Any) -> None:
    error = fails(bad, {"do": "sys_exit", "status": 2})
    assert error["errorType"] == "Runtime.ExitError"


def test_result_over_six_megabytes_is_refused(bad: Any) -> None:
    error = fails(bad, {"do": "big", "bytes": 7 << 20})
    assert error["errorType"] == "Function.ResponseSizeTooLarge"


@pytest.mark.parametrize(
    ("bucket", "key", "code"), [("things", "absent", "NoSuchKey"), ("no-such-bucket", "one", "NoSuchBucket")]
)
def test_missing_object_is_botocores_own_exception(bad: Any, bucket: str, key: str, code: str) -> None:
    error = fails(bad, {"do": "get", "bucket": bucket, "key": key})
    assert error["errorType"] == code
    assert f"An error occurred ({code}) when calling the GetObject operation" in error["errorMessage"]


def test_store_that_is_down_is_botocores_connection_error(bad: Any) -> None:
    bad.stop_store()
    try:
        error = fails(bad, {"do": "get", "bucket": "things", "key": "one"})
        assert error["errorType"] == "EndpointConnectionError"
        assert bad.store_endpoint in error["errorMessage"]
    finally:
        bad.start_store()
    payload, _ = bad.invoke("bad", {"do": "get", "bucket": "things", "key": "one"})
    assert payload == 1000


def refused(call: Callable[[], Any]) -> botocore.exceptions.ClientError:
    """The client error that `call` raises."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call()
    return caught.value


def test_event_that_is_not_json_is_refused(bad: Any) -> None:
    error = refused(lambda: bad.lambda_client.invoke(FunctionName="bad", Payload=b'{"do": '))
    assert error.response["Error"]["Code"] == "InvalidRequestContentException"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert "Could not parse request body into json" in str(error)


def test_event_over_six_megabytes_is_refused(bad: Any) -> None:
    event = json.dumps({"do": "nothing", "padding": "z" * 6_291_456})
    error = refused(lambda: bad.lambda_client.invoke(FunctionName="bad", Payload=event))
    assert error.response["Error"]["Code"] == "RequestTooLargeException"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 413


def test_event_just_under_six_megabytes_arrives_whole(bad: Any) -> None:
    padding = "z" * (6_291_456 - 100)
    payload, _ = bad.invoke("bad", {"do": "nothing", "echo": padding})
    assert payload["echo"] == padding


def test_unknown_function_is_named(bad: Any) -> None:
    error = refused(lambda: bad.lambda_client.invoke(FunctionName="nobody", Payload=b"{}"))
    assert error.response["Error"]["Code"] == "ResourceNotFoundException"
    assert "nobody" in str(error)
