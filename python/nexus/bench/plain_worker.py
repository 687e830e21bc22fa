"""The reference: a Lambda handler in a plain process, with the real boto3. Standard library only.

Run by path as ``python plain_worker.py MODULE.FUNCTION``. Reads one event (JSON) a line, writes one answer a line:
``{"result"} or {"error"}`` with ``first_ns`` and ``end_ns`` (CLOCK_MONOTONIC around the handler).
"""

import importlib
import json
import sys
import time


class _Context:
    aws_request_id = "plain"
    function_name = "plain"


def main() -> None:
    """Serve events until standard input ends."""
    module, _, name = sys.argv[1].rpartition(".")
    handler = getattr(importlib.import_module(module), name)
    # Handlers may print; the answers go where only they go.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        event = json.loads(line)
        answer: dict[str, object] = {"first_ns": time.monotonic_ns()}
        try:
            answer["result"] = handler(event, _Context())
        except Exception as error:  # noqa: BLE001
            answer["error"] = f"{type(error).__name__}: {error}"
        answer["end_ns"] = time.monotonic_ns()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
