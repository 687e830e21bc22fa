"""Events from JSON, results to JSON: the same documents as AWS Lambda's Python runtime.

That runtime uses simplejson, whose habits differ from the standard library's: bytes are decoded as UTF-8, named tuples
become objects, Decimal is written as a number, NaN and infinities are refused.
"""

import json
import math
import sys
from decimal import Decimal
from typing import Any

from .faults import Fault

# Python 3.12's managed runtime was the first to leave non-ASCII characters as they are.
_ASCII = sys.version_info < (3, 12)
_OUT_OF_RANGE = "Out of range float values are not JSON compliant"
_SCALARS = frozenset({str, int, float, bool, type(None)})
_encode = json.JSONEncoder(ensure_ascii=_ASCII, allow_nan=False).encode
_decode = json.JSONDecoder().decode


def load(text: str) -> Any:
    """The event. Raises Fault where it is no JSON."""
    try:
        return _decode(text)
    except Exception as error:
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from error


def dump(value: object) -> bytes:
    """A handler's result; bytes pass as they are. Raises Fault for what JSON cannot carry."""
    if isinstance(value, bytes):
        return value
    try:
        if not _is_plain(value):
            return _Unusual().encode(value).encode("utf-8")
        return _encode(value).encode("utf-8")
    except Exception as error:
        text = str(error)
        if text == _OUT_OF_RANGE:  # before Python 3.12 the message lacks the value
            text += f": {_first_infinite(value)}"
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {text}") from error


def _first_infinite(value: Any) -> object:
    """The number that JSON has no form for."""
    if isinstance(value, (float, Decimal)):
        return None if math.isfinite(value) else float(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return None
    return next((found for found in map(_first_infinite, value) if found is not None), None)


def _is_plain(value: object) -> bool:
    """Whether the standard encoder alone gives the right document (or the right error)."""
    if type(value) in _SCALARS:
        return True
    seen: set[int] = set()
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if not all(type(key) is str for key in item):
                return False
            children: Any = item.values()
        elif isinstance(item, list) or type(item) is tuple:
            children = item
        else:
            return False
        if id(item) not in seen:
            seen.add(id(item))
            pending.extend(child for child in children if type(child) not in _SCALARS)
    return True


class _Unusual:
    """Rewrites what the standard encoder does not know into what it does; Decimals through marked strings."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._numbers: list[str] = []
        self._mark = f"\x00{id(self):x}."

    def encode(self, value: object) -> str:
        text = _encode(self._rewrite(value))
        if not self._numbers:
            return text
        mark = _encode(self._mark)[:-1]
        first, *rest = text.split(mark)
        return first + "".join(self._numbers[int(part[:8], 16)] + part[9:] for part in rest)

    def _rewrite(self, value: Any) -> Any:
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, Decimal):
            return self._number(value)
        if id(value) in self._open:
            raise ValueError("Circular reference detected")
        self._open.add(id(value))
        try:
            as_dict = getattr(value, "_asdict", None)
            if isinstance(value, tuple) and callable(as_dict):
                value = as_dict()
            if isinstance(value, dict):
                return {self._key(key): self._rewrite(item) for key, item in value.items()}
            if isinstance(value, (list, tuple)):
                return [self._rewrite(item) for item in value]
        finally:
            self._open.discard(id(value))
        return value  # the encoder raises its TypeError

    def _number(self, value: Decimal) -> Any:
        if value.is_nan():
            return float("nan")
        self._numbers.append(str(value))
        return f"{self._mark}{len(self._numbers) - 1:08x}"

    @staticmethod
    def _key(key: Any) -> Any:
        if isinstance(key, bytes):
            return key.decode("utf-8")
        if key is not None and not isinstance(key, (str, int, float)):
            raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")
        return key
