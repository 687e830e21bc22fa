"""A handler for the functional tests: does what the event says."""

import os
import sys
import time

CALLS = 0


def handler(event, context):
    global CALLS
    CALLS += 1
    what = event.get("do")
    if what == "raise":
        raise ValueError(event.get("text", "as asked"))
    if what == "print":
        print(event["text"])
        print(event["text"], file=sys.stderr)
    if what == "sleep":
        time.sleep(event["seconds"])
    if what == "env":
        return os.environ.get(event["name"])
    if what == "context":
        return {
            "function_name": context.function_name,
            "memory_limit_in_mb": str(context.memory_limit_in_mb),
            "aws_request_id": context.aws_request_id,
            "invoked_function_arn": context.invoked_function_arn,
            "remaining": context.get_remaining_time_in_millis(),
        }
    if what == "count":
        return CALLS
    return event


def other(event, context):
    return "other"
