"""The SDK and the Lambda API against a running node, with either isolation."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from framework.node import TestNode
from nexus import FunctionError, NexusError, Node
from nexus.errors import ServiceError


@pytest.fixture(scope="module")
def basic(node: TestNode, handlers: Path) -> TestNode:
    node.deploy("basic", handlers / "basic.py", environment={"COLOUR": "green"}, timeout_s=20, memory_mib=192)
    return node


@pytest.mark.parametrize("event", [{"a": [1, 2.5, None, True]}, {"ü": "☃"}, {}, {"do": None}])
def test_result_is_what_the_handler_returned(basic: TestNode, event: dict) -> None:
    assert basic.nexus.invoke("basic", event) == event
    assert basic.invoke("basic", event)[0] == event


def test_exception_comes_as_lambda_shapes_it(basic: TestNode) -> None:
    with pytest.raises(FunctionError) as caught:
        basic.nexus.invoke("basic", {"do": "raise", "text": "boom"})
    assert caught.value.error_type == "ValueError"
    assert caught.value.error_message == "boom"
    assert any("raise ValueError" in line for line in caught.value.stack_trace)
    payload, response = basic.invoke("basic", {"do": "raise"})
    assert response["FunctionError"] == "Unhandled"
    assert response["StatusCode"] == 200
    assert payload["errorType"] == "ValueError"


def test_log_of_an_invocation_comes_with_it_and_is_kept(basic: TestNode) -> None:
    import base64

    _, response = basic.invoke("basic", {"do": "print", "text": "marked-words"})
    tail = base64.b64decode(response["LogResult"]).decode()
    assert tail.count("marked-words") == 2
    assert "START RequestId" in tail
    assert "REPORT RequestId" in tail
    assert "marked-words" in basic.logs("basic")


def test_environment_and_context_are_lambdas(basic: TestNode) -> None:
    assert basic.nexus.invoke("basic", {"do": "env", "name": "COLOUR"}) == "green"
    assert basic.nexus.invoke("basic", {"do": "env", "name": "AWS_LAMBDA_FUNCTION_NAME"}) == "basic"
    context, response = basic.invoke("basic", {"do": "context"})
    assert context["function_name"] == "basic"
    assert context["memory_limit_in_mb"] == "192"
    assert context["aws_request_id"] == response["ResponseMetadata"]["RequestId"]
    assert context["invoked_function_arn"].endswith(":function:basic")
    assert 0 < context["remaining"] <= 20_000


def test_an_idle_instance_is_used_again_and_an_evicted_one_is_not(basic: TestNode) -> None:
    basic.nexus.evict("basic")
    assert [basic.nexus.invoke("basic", {"do": "count"}) for _ in range(3)] == [1, 2, 3]
    assert basic.nexus.evict("basic") == 1
    assert basic.nexus.invoke("basic", {"do": "count"}) == 1


def test_simultaneous_events_get_instances_of_their_own(basic: TestNode) -> None:
    basic.nexus.evict("basic")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: basic.nexus.invoke("basic", {"do": "sleep", "seconds": 1.0}), range(4)))
    instances = [i for i in basic.nexus.instances() if i["function"] == "basic"]
    assert len(instances) == 4
    assert {i["isolation"] for i in instances} == {basic.isolation}
    assert len({i["pid"] for i in instances}) == 4


def test_timings_are_in_order_and_tell_cold_from_warm(basic: TestNode) -> None:
    basic.nexus.evict("basic")
    basic.nexus.invoke("basic", {})
    basic.nexus.invoke("basic", {})
    cold, warm = basic.nexus.timings("basic", 2)
    assert (cold["cold"], warm["cold"]) == (True, False)
    for timing in (cold, warm):
        assert timing["received_ns"] <= timing["dispatched_ns"] <= timing["handler_ns"]
        assert timing["handler_ns"] <= timing["handler_end_ns"] <= timing["responded_ns"]


def test_exits_of_a_microvm_are_counted(node: TestNode, tmp_path: Path) -> None:
    source = tmp_path / "exits.py"
    source.write_text("import os\n\ndef handler(event, context):\n    for _ in range(event):\n        os.stat('/tmp')\n")
    node.deploy("exits", source)
    node.nexus.invoke("exits", 1)
    node.nexus.invoke("exits", 100)
    exits = node.nexus.timings("exits", 1)[0]["exits"]
    # One a call, and a few of the runtime's own.
    assert exits in range(100, 150) if node.isolation == "kvm" else exits == 0


def test_deploying_again_replaces_the_code(node: TestNode, tmp_path: Path) -> None:
    source = tmp_path / "changing.py"
    for answer in ("one", "two"):
        source.write_text(f"def handler(event, context):\n    return {answer!r}\n")
        node.deploy("changing", source)
        assert node.nexus.invoke("changing") == answer


def test_a_directory_with_modules_and_another_handler_name(node: TestNode, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text("import helper\n\ndef run(event, context):\n    return helper.VALUE\n")
    (tmp_path / "app" / "helper.py").write_text("VALUE = 42\n")
    node.deploy("directory", tmp_path / "app", handler="main.run")
    assert node.nexus.invoke("directory") == 42


def test_deleted_function_is_gone(node: TestNode, handlers: Path) -> None:
    node.deploy("gone", handlers / "basic.py")
    node.nexus.delete("gone")
    with pytest.raises(ServiceError, match="gone") as caught:
        node.nexus.invoke("gone")
    assert caught.value.kind == "ResourceNotFoundException"
    with pytest.raises(node.lambda_client.exceptions.ResourceNotFoundException):
        node.lambda_client.invoke(FunctionName="gone", Payload=b"{}")
    with pytest.raises(ServiceError):
        node.nexus.delete("gone")


def test_lambda_client_lists_what_is_deployed(basic: TestNode) -> None:
    names = [f["FunctionName"] for f in basic.lambda_client.list_functions()["Functions"]]
    assert "basic" in names
    configuration = basic.lambda_client.get_function_configuration(FunctionName="basic")
    assert configuration["Handler"] == "basic.handler"
    assert configuration["MemorySize"] == 192


def test_dry_run_runs_nothing(basic: TestNode) -> None:
    before = basic.nexus.invoke("basic", {"do": "count"})
    response = basic.lambda_client.invoke(FunctionName="basic", InvocationType="DryRun", Payload=b"{}")
    assert response["StatusCode"] == 204
    assert basic.nexus.invoke("basic", {"do": "count"}) == before + 1


def test_handler_that_does_not_import_fails_at_deploy_with_its_trace(node: TestNode, tmp_path: Path) -> None:
    source = tmp_path / "broken.py"
    source.write_text("import no_such_module_anywhere\n")
    with pytest.raises(ServiceError) as caught:
        node.deploy("broken", source)
    assert caught.value.status == 400
    assert "no_such_module_anywhere" in str(caught.value.body["errorMessage"])
    assert "broken" not in [f["name"] for f in node.nexus.functions()]


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65, "../up"])
def test_names_that_lambda_refuses_are_refused(node: TestNode, handlers: Path, name: str) -> None:
    with pytest.raises((NexusError, ServiceError)):
        node.nexus.deploy(f"{handlers}/basic.py:handler", name or " ")


def test_status_tells_the_isolation(node: TestNode) -> None:
    status = node.nexus.status()
    assert status["isolation"] == node.isolation
    assert status["pid"] == node.nexus.record.processes["nexusd"].pid
    assert status["endpoints"]["s3"] == node.store_endpoint


def test_a_second_node_on_the_same_state_is_refused(node: TestNode) -> None:
    with pytest.raises(NexusError, match="runs already"):
        Node.start(node.state, port=0, store_port=0)


def test_connect_finds_the_running_node_and_leaves_it_running(node: TestNode) -> None:
    with Node.connect(node.state) as other:
        assert other.url == node.endpoint
    assert node.nexus.status()["pid"]


def test_store_credentials_are_the_owners_only(node: TestNode) -> None:
    assert (node.state / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((node.state / "credentials.json").read_text()) == node.credentials


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("os._exit(1)", "Runtime.ExitError"), ("sys.exit(1)", "Runtime.ExitError"), ("time.sleep(30)", "Sandbox.Timedout")],
)
def test_text_without_a_lines_end_is_logged_however_the_instance_ends(
    node: TestNode, tmp_path: Path, ending: str, kind: str
) -> None:
    source = f"import os, sys, time\ndef handler(e, c):\n    print('whole')\n    sys.stdout.write('a part')\n    {ending}\n"
    (tmp_path / "ends.py").write_text(source)
    node.deploy("ends", tmp_path / "ends.py", timeout_s=2)
    payload, _ = node.invoke("ends", {})
    assert payload["errorType"] == kind
    log = node.logs("ends")
    node.nexus.delete("ends")
    assert log.count("whole\na part\n") == 1, log
    assert log.count("a part") == 1, log


def test_a_functions_modules_are_its_own_and_the_runtimes_are_the_standard_librarys(node: TestNode, tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "nexus").mkdir(parents=True)
    (code / "nexus" / "__init__.py").write_text("NAME = 'own'\n")
    for name in ("json", "random", "threading", "types", "encodings"):
        (code / f"{name}.py").write_text(f"raise RuntimeError('the own {name} was imported')\n")
    (code / "app.py").write_text(
        "import json, random, sys, threading, types, nexus\n"
        "def handler(e, c):\n    return [nexus.NAME, json.dumps({}), sys.path[0] == root()]\n"
        "def root():\n    import os\n    return os.environ['LAMBDA_TASK_ROOT']\n"
    )
    node.deploy("shadows", code, "app.handler")
    assert node.invoke("shadows", {})[0] == ["own", "{}", True]
