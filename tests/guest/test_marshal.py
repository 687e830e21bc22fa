"""Results as Lambda's Python runtime writes them (it uses simplejson; the expected texts were taken from that)."""

import collections
import enum
import json
import sys
import typing
from decimal import Decimal

import pytest
from nexus.guest.runtime import marshal
from nexus.guest.runtime.faults import Fault


class Point(typing.NamedTuple):
    x: object
    y: object


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        ({"a": [1, 2.5, True, None, "b"]}, '{"a": [1, 2.5, true, null, "b"]}'),
        ((1, 2), "[1, 2]"),
        ({1: "a", 2.5: "b", None: "d", False: "e"}, '{"1": "a", "2.5": "b", "null": "d", "false": "e"}'),
        ({"d": Decimal("1.10"), "e": [Decimal(3), "x"]}, '{"d": 1.10, "e": [3, "x"]}'),
        (Decimal("-0.5"), "-0.5"),
        (Point(1, Point(2, "z")), '{"x": 1, "y": {"x": 2, "y": "z"}}'),
        ({"b": b"h\xc3\xa4"}, '{"b": "h\\u00e4"}'),
        ({b"k": 1}, '{"k": 1}'),
        (Colour.RED, "1"),
        ([Text("t")], '["t"]'),
        (collections.OrderedDict(z=1, a=2), '{"z": 1, "a": 2}'),
        ("\u2028\U0001f600\x7f", '"\\u2028\\ud83d\\ude00\\u007f"'),
    ],
)
def test_document(value, expected):
    assert json.loads(marshal.dump(value)) == json.loads(expected)
    if sys.version_info < (3, 12) and "\x7f" not in str(value):
        assert marshal.dump(value).decode() == expected


def test_bytes_pass_as_they_are():
    assert marshal.dump(b"\xff\x00raw") == b"\xff\x00raw"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "Unable to marshal response: Object of type set is not JSON serializable"),
        (object(), "Unable to marshal response: Object of type object is not JSON serializable"),
        ([float("nan")], "Unable to marshal response: Out of range float values are not JSON compliant: nan"),
        ({"a": Decimal("NaN")}, "Unable to marshal response: Out of range float values are not JSON compliant: nan"),
        ({"a": (1, [float("-inf")])}, "Unable to marshal response: Out of range float values are not JSON compliant: -inf"),
        ({(1, 2): 3}, "Unable to marshal response: keys must be str, int, float, bool or None, not tuple"),
        ({"b": b"\xff"}, "Unable to marshal response: 'utf-8' codec can't decode byte 0xff"),
        (lambda: None, "Unable to marshal response: Object of type function is not JSON serializable"),
    ],
)
def test_what_json_cannot_carry(value, message):
    with pytest.raises(Fault) as caught:
        marshal.dump(value)
    assert caught.value.kind == "Runtime.MarshalError"
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("wrap", [list, lambda inner: {"a": inner}, lambda inner: [Decimal(1), inner]])
def test_circular_structures_are_refused(wrap):
    loop = []
    loop.append(wrap(loop) if wrap is not list else loop)
    with pytest.raises(Fault, match="Circular reference detected"):
        marshal.dump(loop)


def test_events():
    assert marshal.load('{"a": [1, "\\u00e4"]}') == {"a": [1, "\u00e4"]}
    with pytest.raises(Fault, match="Unable to unmarshal input: Expecting value"):
        marshal.load("nojson")
