"""The runtime as a process: what a handler sees, what its caller gets, what is logged."""

import importlib.util
import json
import re
import sys
import time
from pathlib import Path

import pytest
from fake_backend import PYTHON_ROOT
from support import Guest


@pytest.fixture
def guest(tmp_path):
    guests = []

    def make(source, handler="function.handler", **environment):
        guests.append(Guest(tmp_path, source, handler, **environment))
        return guests[-1]

    yield make
    for one in guests:
        one.close()


def test_context_is_lambdas(guest):
    one = guest(
        """
        import os
        def handler(event, context):
            names = "aws_request_id function_name function_version memory_limit_in_mb invoked_function_arn".split()
            names += "log_group_name log_stream_name".split()
            client = context.client_context
            return {**{name: getattr(context, name) for name in names}, "left": context.get_remaining_time_in_millis(),
                    "identity": context.identity.cognito_identity_id, "trace": os.environ.get("_X_AMZN_TRACE_ID"),
                    "client": [client.client.app_title, client.custom, client.env] if client else None, "event": event}
        """,
        AWS_LAMBDA_LOG_GROUP_NAME="/aws/lambda/f",
        AWS_LAMBDA_LOG_STREAM_NAME="s",
    )
    context = {"client": {"app_title": "t"}, "custom": {"k": "v"}, "env": {"e": "1"}}
    kind, seen = one.invoke({"n": 1}, client_context=context, identity={"cognitoIdentityId": "i"}, trace_id="Root=1")
    assert kind == "result"
    assert 0 < seen.pop("left") <= 30_000
    assert seen == {
        "aws_request_id": "11111111-2222-3333-4444-555555555555",
        "function_name": "f",
        "function_version": "$LATEST",
        "memory_limit_in_mb": "256",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
        "log_group_name": "/aws/lambda/f",
        "log_stream_name": "s",
        "identity": "i",
        "trace": "Root=1",
        "client": ["t", {"k": "v"}, {"e": "1"}],
        "event": {"n": 1},
    }
    _, seen = one.invoke(deadline_ms=int(time.time() * 1000) - 5)
    assert (seen["left"], seen["identity"], seen["trace"], seen["client"], seen["event"]) == (0, None, None, None, None)


def test_error_document_and_log(guest):
    one = guest(
        """
        def inner():
            raise KeyError("gone")
        def handler(event, context):
            inner()
        """
    )
    kind, error = one.invoke({})
    assert kind == "error"
    assert (error["errorType"], error["errorMessage"]) == ("KeyError", "'gone'")
    assert error["requestId"] == "11111111-2222-3333-4444-555555555555"
    assert [re.sub(r'".*/', '"', entry) for entry in error["stackTrace"]] == [
        '  File "function.py", line 5, in handler\n    inner()\n',
        '  File "function.py", line 3, in inner\n    raise KeyError("gone")\n',
    ]
    assert one.invoke({})[0] == "error"
    output = one.close()
    assert output.count("[ERROR] KeyError: 'gone'\nTraceback (most recent call last):\n") == 2


@pytest.mark.parametrize(
    ("source", "handler", "kind", "message"),
    [
        (
            "import no_such_module",
            "function.handler",
            "Runtime.ImportModuleError",
            "Unable to import module 'function': No module named 'no_such_module'",
        ),
        ("", "missing.handler", "Runtime.ImportModuleError", "Unable to import module 'missing': No module named 'missing'"),
        ("x = 1", "function.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'function'"),
        (
            "def handler(:\n  pass",
            "function.handler",
            "Runtime.UserCodeSyntaxError",
            "Syntax error in module 'function': invalid syntax (function.py, line 1)",
        ),
        (
            "",
            "handler",
            "Runtime.MalformedHandlerName",
            "Bad handler 'handler': not enough values to unpack (expected 2, got 1)",
        ),
        ("", "sys.handler", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
        ("raise RuntimeError('at import')", "function.handler", "RuntimeError", "at import"),
    ],
)
def test_initialisation_errors(guest, source, handler, kind, message):
    one = guest(source, handler)
    assert one.ended() == 1
    error = one.backend.init_error
    assert (error["errorType"], error["errorMessage"]) == (kind, message)
    if kind == "RuntimeError":
        assert "function.py" in error["stackTrace"][-1]
    if kind == "Runtime.UserCodeSyntaxError":
        assert error["stackTrace"][0].startswith('  File "')


def test_nested_handler_names(tmp_path, guest):
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "sub" / "mod.py").write_text("def run(event, context):\n    return __name__\n")
    assert guest("", "pkg/sub/mod.run").invoke() == ("result", "pkg.sub.mod")


def test_results_json_cannot_carry(guest):
    one = guest("def handler(event, context):\n    return {1, 2}")
    kind, error = one.invoke()
    assert kind == "error"
    assert error["errorType"] == "Runtime.MarshalError"
    assert error["errorMessage"] == "Unable to marshal response: Object of type set is not JSON serializable"
    assert error["stackTrace"] == []


def test_large_events_and_results(guest):
    one = guest("def handler(event, context):\n    return event if isinstance(event, str) else 'y' * event")
    text = "x" * 5_900_000
    assert one.invoke(text) == ("result", text)
    kind, error = one.invoke(7_000_000)
    assert (kind, error["errorType"]) == ("error", "Function.ResponseSizeTooLarge")
    assert "6291556 bytes" in error["errorMessage"]
    assert one.invoke(3) == ("result", "yyy")


@pytest.mark.parametrize(
    ("statement", "status"),
    [("sys.exit(7)", 7), ("os._exit(9)", 9), ("os.kill(os.getpid(), 11)", -11), ("raise KeyboardInterrupt", -2)],
)
def test_ends_with_the_handler(guest, statement, status):
    one = guest(f"import os, sys\ndef handler(event, context):\n    print('last words')\n    {statement}")
    one.backend.events.put(({"request_id": "r", "deadline_ms": 0}, b"{}"))
    assert one.ended() == status
    assert "last words" in one.close()
    assert one.backend.outcomes.empty()


def test_output_and_logging(guest):
    one = guest(
        """
        import logging, sys
        logger = logging.getLogger()
        logger.setLevel("INFO")
        def handler(event, context):
            print("one", "two")
            print("half", end="")
            logger.info("an %s", "info")
            logger.debug("unseen")
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("failed")
            print("next line")
            sys.stderr.write("to stderr\\n")
        """
    )
    assert one.invoke() == ("result", None)
    output = one.close()
    assert output.startswith("one two\nhalf[INFO]\t20")
    assert re.search(
        r"\[INFO\]\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t11111111-2222-3333-4444-555555555555\tan info\n", output
    )
    assert "to stderr\n" in output
    assert "ZeroDivisionError: division by zero\nnext line\n" in output
    assert "unseen" not in output


def test_json_logging(guest):
    one = guest(
        """
        import logging
        def handler(event, context):
            try:
                1 / 0
            except ZeroDivisionError:
                logging.exception("failed", extra={"order": 5})
        """,
        AWS_LAMBDA_LOG_FORMAT="JSON",
    )
    one.invoke()
    line = json.loads(one.close().splitlines()[0])
    assert (line["level"], line["message"], line["errorType"], line["order"]) == ("ERROR", "failed", "ZeroDivisionError", 5)
    assert line["requestId"] == "11111111-2222-3333-4444-555555555555"


def test_state_lives_between_events_and_times_are_reported(guest):
    one = guest("n = 0\ndef handler(event, context):\n    global n\n    n += 1\n    return n")
    before = time.monotonic_ns()
    assert [one.invoke()[1] for _ in range(3)] == [1, 2, 3]
    flag, _, head = one.backend.invoke(b"{}")
    assert flag == 1
    assert before < head["started_ns"] <= head["ended_ns"] < time.monotonic_ns()


def test_snapshot_hooks_run_before_and_not_after_without_a_restore(guest):
    one = guest(
        """
        import sys, types
        calls = []
        hooks = types.ModuleType("snapshot_restore_py")
        hooks.get_before_snapshot = lambda: [(calls.append, ("first",), {}), (calls.append, ("second",), {})]
        hooks.get_after_restore = lambda: [(calls.append, ("restored",), {})]
        sys.modules["snapshot_restore_py"] = hooks
        def handler(event, context):
            return calls
        """
    )
    assert one.invoke() == ("result", ["second", "first"])


def test_a_broken_stdout_does_not_lose_the_error(guest):
    one = guest("import sys\ndef handler(event, context):\n    sys.stdout.close()\n    raise ValueError('still told')")
    kind, error = one.invoke()
    assert (kind, error["errorMessage"]) == ("error", "still told")


@pytest.mark.parametrize("output", ["None", "io.BytesIO()", "object()"])
def test_an_output_that_is_no_text_stream_does_not_lose_the_error(guest, output):
    one = guest(
        f"""
        import io, sys
        def handler(event, context):
            sys.stdout = {output}
            raise ValueError("still told")
        """
    )
    for _ in range(2):
        kind, error = one.invoke()
        assert (kind, error["errorType"], error["errorMessage"]) == ("error", "ValueError", "still told")
    assert one.close().count("[ERROR] ValueError: still told\n") == 2


def test_an_initialisation_without_a_text_stream_tells_why_it_failed(guest):
    one = guest("import io, sys\nsys.stdout = io.BytesIO()\nraise ValueError('told')")
    assert one.ended() == 1
    assert one.backend.init_error["errorMessage"] == "told"


def test_lone_surrogates_are_escaped_in_error_documents(guest):
    one = guest(
        """
        def handler(event, context):
            raise ValueError("caf\u00e9 \\udcff")
        """
    )
    kind, error = one.invoke()
    assert (kind, error["errorType"], error["errorMessage"]) == ("error", "ValueError", "caf\u00e9 \\udcff")
    assert "in handler" in error["stackTrace"][0]
    json.dumps(error, ensure_ascii=False).encode()
    assert "[ERROR] ValueError: caf\u00e9 \\udcff\n" in one.close()


def test_lone_surrogates_are_escaped_in_initialisation_errors(guest):
    one = guest("raise ValueError('\\ud800 bad')")
    assert one.ended() == 1
    error = one.backend.init_error
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "\\ud800 bad")


def test_a_large_outcome_is_not_kept_by_one_that_waits(guest):
    one = guest(
        """
        def handler(event, context):
            return "x" * event
        """
    )

    def private_mib():
        status = Path(f"/proc/{one.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024

    one.invoke(10)
    before = private_mib()
    size = 5_000_000
    kind, text = one.invoke(size)
    assert (kind, len(text)) == ("result", size)
    assert private_mib() < before + 2


@pytest.mark.parametrize("offload", ["coupled", "api"])
def test_the_runtime_imports_none_of_the_functions_modules(tmp_path, guest, offload):
    # Not those of other platforms, which the standard library's modules try to import.
    for name in filter(importlib.util.find_spec, sys.stdlib_module_names - {"__main__"}):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the own {name} was imported')\n")
    (tmp_path / "queue.py").write_text("OWN = True\n")
    one = guest(
        """
        import json, sys, threading
        import queue
        def handler(event, context):
            if event:
                raise ValueError(json.dumps(event))
            print(queue.OWN, threading.Lock, sys.path[0])
            return sys.path
        """,
        NEXUS_OFFLOAD=offload,
    )
    kind, path = one.invoke()
    assert kind == "result", path
    assert path[0] == str(tmp_path)
    assert path.index(str(tmp_path)) < path.index(str(PYTHON_ROOT)) < path.index(str(Path(json.__file__).parents[1]))
    assert one.invoke({"a": 1})[1]["errorMessage"] == '{"a": 1}'
    assert one.invoke()[0] == "result"
    assert "True" in one.close()


def test_a_function_may_have_a_package_of_the_runtimes_name(tmp_path, guest):
    (tmp_path / "nexus").mkdir()
    (tmp_path / "nexus" / "__init__.py").write_text("from . import part\nZ = part.Z\n")
    (tmp_path / "nexus" / "part.py").write_text("Z = 'own'\n")
    one = guest(
        """
        import nexus, nexus.part
        from nexus.guest import clone
        def handler(event, context):
            if event:
                raise ValueError(nexus.part.Z)
            return [nexus.Z, len(clone.identity()), nexus.__file__]
        """
    )
    assert one.invoke() == ("result", ["own", 32, str(tmp_path / "nexus" / "__init__.py")])
    assert one.invoke(1)[1]["errorMessage"] == "own"


def test_a_part_of_a_namespace_of_the_runtimes_name(tmp_path, guest):
    (tmp_path / "nexus").mkdir()
    (tmp_path / "nexus" / "part.py").write_text("Z = 'own'\n")
    one = guest(
        """
        import nexus.part
        from nexus.guest import clone
        def handler(event, context):
            return [nexus.part.Z, len(clone.identity())]
        """
    )
    assert one.invoke() == ("result", ["own", 32])


def test_a_package_that_would_hide_the_runtime_is_refused_by_name(tmp_path, guest):
    (tmp_path / "nexus" / "guest").mkdir(parents=True)
    (tmp_path / "nexus" / "__init__.py").write_text("")
    one = guest("def handler(event, context):\n    pass")
    assert one.ended() == 1
    assert "Runtime.ReservedModuleName" in one.close()


@pytest.mark.parametrize("ending", ["os._exit(9)", "os.kill(os.getpid(), 9)", "time.sleep(60)"])
def test_text_without_a_lines_end_is_where_the_node_finds_it(guest, ending):
    one = guest(
        f"""
        import os, sys, time
        def handler(event, context):
            print("a line")
            print("half", "a", end="")
            sys.stdout.write(" line" + "x" * event)
            sys.stderr.write("an \\u00e9rror")
            if event < 0:
                return print()
            {ending}
        """
    )
    assert one.invoke(-1) == ("result", None)
    assert one.backend.last_words() == ["", ""]
    one.backend.events.put(({"request_id": "r", "deadline_ms": 0}, b"0"))
    deadline = time.monotonic() + 20
    while not one.backend.last_words()[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert one.backend.last_words() == ["half a line", "an \u00e9rror"]
    assert one.close().count("half") == 1


def test_a_print_is_one_write_and_much_text_of_one_line_is_sent_by_and_by(guest):
    one = guest(
        """
        import io, os, sys
        def handler(event, context):
            written = []
            class Counted(io.RawIOBase):
                def writable(self):
                    return True
                def write(self, data):
                    written.append(len(data))
                    return len(data)
            stream = type(sys.stdout)(io.BufferedWriter(Counted()), sys.stdout._channel, sys.stdout._place)
            print("a", "b", 3, file=stream)
            assert written == [6], written
            for _ in range(1000):
                stream.write("0123456789")
            assert 8_000 < sum(written) - 6 <= 10_000 and len(written) < 8, written
            stream.flush()
            assert sum(written) == 10_006
            return sys.stdout.encoding, sys.stdout.errors, sys.stdout.name, sys.stdout.line_buffering
        """
    )
    assert one.invoke() == ("result", ["utf-8", "backslashreplace", "<stdout>", True])
