"""Standard output, standard error and `logging`, set up as AWS Lambda does."""

import io
import json
import logging
import os
import struct
import sys
import time
from typing import Any

from .. import abi
from ..device import Channel

_LENGTH = struct.Struct("<I")
_TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_DATE = "%Y-%m-%dT%H:%M:%S"
_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "taskName"}

request_id = ""


class Stream(io.TextIOWrapper):
    """Standard output or error. What is written leaves the guest line by line, since each time costs an exit.

    Text without a line's end lies in the arena meanwhile, where the node finds it should the guest end before the line: on
    Lambda, whose streams are unbuffered, it is in the log as well.
    """

    def __init__(self, buffer: Any, channel: Channel, place: int, **options: Any) -> None:
        super().__init__(buffer, line_buffering=True, **options)
        self._channel: Channel | None = channel
        self._place = place
        self._kept = 0

    def write(self, text: str, /) -> int:
        """Write `text`; with the end of a line in it, all is out."""
        count = super().write(text)
        if self.line_buffering and ("\n" in text or "\r" in text):
            self._keep(0)
        elif text:
            self._add(text)
        return count

    def flush(self) -> None:
        """Send out what is buffered."""
        super().flush()
        self._keep(0)

    def disown(self) -> None:
        """In a process that fork made: the arena is its parent's."""
        self._channel = None
        self._kept = 0

    def _add(self, text: str) -> None:
        channel = self._channel
        if channel is None:
            return
        data = text.encode(self.encoding, self.errors or "strict")
        kept = self._kept
        if kept + len(data) > abi.LAST_WORDS_SIZE - _LENGTH.size:
            self.flush()
            return
        at = self._place + _LENGTH.size + kept
        channel.arena[at : at + len(data)] = data
        self._keep(kept + len(data))

    def _keep(self, length: int) -> None:
        if length != self._kept:
            self._kept = length
            if self._channel is not None:
                _LENGTH.pack_into(self._channel.arena, self._place, length)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            # One record, one line or several, whatever follows the format's own end: a traceback, on Lambda in its frame.
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
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


def setup(channel: Channel) -> None:
    """Streams that lose nothing, and Lambda's root handler."""
    for index, name in enumerate(("stdout", "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream.write_through:  # PYTHONUNBUFFERED: each piece leaves at once, as the function asks
            stream.reconfigure(errors="backslashreplace")
        else:
            place = abi.LAST_WORDS + index * abi.LAST_WORDS_SIZE
            encoding = stream.encoding
            own = Stream(stream.detach(), channel, place, encoding=encoding, errors="backslashreplace")
            setattr(sys, name, own)
            setattr(sys, f"__{name}__", own)
            os.register_at_fork(after_in_child=own.disown)
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
