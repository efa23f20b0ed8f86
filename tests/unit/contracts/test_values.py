"""What every store holds, over all of Unicode and all of JSON and more."""

import json
import math
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.values import MAX_DEPTH, to_storable, to_storable_text, why_not_storable
from tests.support.anything import anything, texts


@given(anything())
def test_what_is_kept_is_held_by_every_store(value: Any) -> None:
    kept = to_storable(value)
    body = to_json(kept.value)
    assert b"\\u0000" not in body.replace(b"\\\\", b"")
    assert msgspec.json.decode(body) == json.loads(body)
    assert json.loads(json.dumps(kept.value, allow_nan=False)) == kept.value
    assert to_storable(kept.value).value == kept.value
    assert why_not_storable(kept.value) is None


@given(anything())
def test_each_place_that_was_changed_is_marked_and_no_other(value: Any) -> None:
    kept = to_storable(value)
    assert bool(kept.escaped) == (why_not_storable(value) is not None)
    if not kept.escaped:
        assert kept.value == json.loads(json.dumps(value))


@given(texts)
def test_texts_that_are_kept_tell_the_characters_that_were_not(text: str) -> None:
    kept = to_storable_text(text)
    assert kept.encode().decode() == kept
    assert "\x00" not in kept
    if "\\" not in text:
        assert re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), kept) == text


@pytest.mark.parametrize(
    ("value", "kept", "escaped"),
    [
        ({"a": ["x\x00y"]}, {"a": ["x\\u0000y"]}, ["/a/0"]),
        ("\ud83d", "\\ud83d", [""]),
        ({"a/b~\x00": 1}, {"a/b~\\u0000": 1}, ["/a~1b~0\\u0000"]),
        ([math.nan, math.inf, -math.inf], ["NaN", "Infinity", "-Infinity"], ["/0", "/1", "/2"]),
        (2**70, 2**70, []),
        ((1, 2), [1, 2], []),
        ({7: 1}, {"7": 1}, []),
        ("😀 é \x01 \u2028", "😀 é \x01 \u2028", []),
    ],
)
def test_escapes(value: Any, kept: Any, escaped: list[str]) -> None:
    found = to_storable(value)
    assert (found.value, found.escaped) == (kept, escaped)


def test_a_number_of_more_digits_than_python_reads_becomes_text() -> None:
    found = to_storable({"n": 10**5000})
    assert (int(found.value["n"], 16), found.escaped) == (10**5000, ["/n"])


def test_nesting_has_an_end() -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert to_storable(deep).escaped == []
    with pytest.raises(Invalid, match="deeper than 100 levels"):
        to_storable([deep])
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(Invalid, match="deeper than 100 levels"):
        to_storable(cyclic)


def test_a_caller_learns_the_place() -> None:
    assert str(why_not_storable({"a": {"b": "\x00"}})).startswith("/a/b holds")
    assert why_not_storable({"a": {"b": "ok"}}) is None
