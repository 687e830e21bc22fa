"""Standard output, standard error and `logging`, set up as AWS Lambda does."""

import io
import json
import logging
import os
import sys
import time
from typing import Any

_TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_DATE = "%Y-%m-%dT%H:%M:%S"
_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "taskName"}

request_id = ""


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.write(self.format(record))
        except Exception:
            self.handleError(record)


class _Filter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = request_id
        return True


class _JsonFormatter(logging.Formatter):
    """One JSON document per line (AWS_LAMBDA_LOG_FORMAT=JSON)."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, value, _ = record.exc_info
            fields["errorType"] = kind.__name__
            fields["errorMessage"] = str(value)
            fields["stackTrace"] = self.formatException(record.exc_info).splitlines()
            fields["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        fields["requestId"] = request_id
        fields.update((name, value) for name, value in vars(record).items() if name not in _ATTRIBUTES)
        return json.dumps(fields, ensure_ascii=False, default=str) + "\n"


def setup() -> None:
    """Line-buffered streams (a write leaves the guest, so not one per fragment) and Lambda's root handler."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    handler = _Handler()
    if os.environ.get("AWS_LAMBDA_LOG_FORMAT") == "JSON":
        handler.setFormatter(_JsonFormatter())
    else:
        formatter = logging.Formatter(_TEXT, _DATE)
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    logging.Formatter.converter = time.gmtime
    handler.addFilter(_Filter())
    root = logging.getLogger()
    root.addHandler(handler)
    level = {"TRACE": "DEBUG", "FATAL": "CRITICAL"}.get(name := os.environ.get("AWS_LAMBDA_LOG_LEVEL", ""), name)
    if level in logging.getLevelNamesMapping():
        root.setLevel(level)


def flush() -> None:
    """Send out what is buffered. A stream that the handler closed or replaced is its own affair."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue
