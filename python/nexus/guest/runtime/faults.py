"""Errors in the form in which Lambda reports them."""

import sys
import traceback
from types import TracebackType
from typing import Any

_OWN = __file__.rpartition("/runtime/")[0] + "/"
_FROZEN_LIMIT = 200


class Fault(Exception):
    """An error of the function's set-up or of its data, named by Lambda: `Runtime.ImportModuleError` and so on."""

    def __init__(self, kind: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.trace = trace or []


def describe(message: str, kind: str, trace: list[str], request_id: str = "") -> dict[str, Any]:
    """The error document: errorMessage, errorType, requestId, stackTrace. Text that is not Unicode is escaped in it."""
    return {
        "errorMessage": _sound(message),
        "errorType": _sound(kind),
        "requestId": request_id,
        "stackTrace": [_sound(entry) for entry in trace],
    }


def _sound(text: str) -> str:
    """`text` with lone surrogates as the log shows them (backslash escapes): no reader of JSON has to take them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def from_exception(error: BaseException, request_id: str = "") -> dict[str, Any]:
    """The error document of an exception, its trace without the runtime's own frames."""
    if isinstance(error, Fault):
        return describe(error.message, error.kind, error.trace, request_id)
    return describe(_text(error), type(error).__name__, format_trace(error.__traceback__), request_id)


def format_trace(trace: TracebackType | None) -> list[str]:
    """One formatted entry per frame, from the handler's first frame on."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN) and trace.tb_next is not None:
        trace = trace.tb_next
    frames = traceback.extract_tb(trace)
    if len(frames) > 2 * _FROZEN_LIMIT:  # a runaway recursion: its ends tell enough
        frames = traceback.StackSummary.from_list(frames[:_FROZEN_LIMIT] + frames[-_FROZEN_LIMIT:])
    return [_plain(frame) for frame in frames]


def _plain(frame: traceback.FrameSummary) -> str:
    """As Lambda formats a frame: file, line, name and source, without position markers."""
    entry = f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n'
    return f"{entry}    {frame.line}\n" if frame.line else entry


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<{type(error).__name__}: its text cannot be had: {type(broken).__name__}>"


def log(document: dict[str, Any]) -> None:
    """Write the error to the log as Lambda does: `[ERROR] Type: message`, then the traceback.

    Where the function closed its output, or put something else in its place, the first one serves, or none does: the caller
    gets the error anyway.
    """
    lines = [f"[ERROR] {document['errorType']}: {document['errorMessage']}"]
    if document["stackTrace"]:
        lines.append("Traceback (most recent call last):")
        lines += [entry.rstrip("\n") for entry in document["stackTrace"]]
    text = "\n".join(lines) + "\n"
    for stream in (sys.stdout, sys.__stdout__):
        try:
            stream.write(text)  # type: ignore[union-attr]
        except Exception:  # it is the function's object
            continue
        return
