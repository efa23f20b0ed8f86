"""What processes in other languages write is read as it is meant, and comes out as every store holds it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.errors import Undecodable
from flotilla.contracts.foreign import decode_foreign_agent_event
from flotilla.contracts.values import to_storable, why_not_storable
from tests.support.anything import objects

EVENT = {"specversion": "1.0", "id": "1", "type": "t", "source": "/s", "subject": "s1", "time": "2030-01-01T12:00:00Z"}


def body(**fields: Any) -> bytes:
    return json.dumps({**EVENT, **fields}).encode()


@given(objects, st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]), st.booleans())
def test_any_data_in_any_spelling_is_read(data: dict[str, Any], encoding: str, ascii_only: bool) -> None:
    text = json.dumps({**EVENT, "data": data}, ensure_ascii=ascii_only)
    try:
        written = text.encode(encoding)
    except UnicodeEncodeError:
        written = json.dumps({**EVENT, "data": data}).encode(encoding)
    event = decode_foreign_agent_event(written)
    assert why_not_storable(event.data) is None
    assert event.subject == "s1"


@given(st.binary(max_size=80))
def test_anything_else_is_undecodable(written: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_foreign_agent_event(written)


@pytest.mark.parametrize(
    ("time", "read"),
    [
        ("2030-01-01T12:00Z", datetime(2030, 1, 1, 12, tzinfo=UTC)),
        ("2030-01-01T12:00:00", datetime(2030, 1, 1, 12, tzinfo=UTC)),
        ("2030-01-01 12:00:00+00:00", datetime(2030, 1, 1, 12, tzinfo=UTC)),
        ("20300101T120000Z", datetime(2030, 1, 1, 12, tzinfo=UTC)),
    ],
)
def test_times_are_read_without_seconds_or_offset(time: str, read: datetime) -> None:
    assert decode_foreign_agent_event(body(time=time)).time == read


@pytest.mark.parametrize("time", ["yesterday", "", 12, None, "12:00Z"])
def test_a_time_that_nobody_can_read_is_the_time_of_reading(time: object) -> None:
    assert decode_foreign_agent_event(body(time=time)).time > datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"{" * 5000,
        b"[" * 500_000,
        body()[:-1],
        body(specversion="2.0"),
        body(data=7),
        body() + b"x",
    ],
    ids=["empty", "array", "no attributes", "null", "deep", "deeper", "cut off", "version", "data", "more after it"],
)
def test_what_is_not_an_event_is_undecodable(written: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_foreign_agent_event(written)


@pytest.mark.parametrize("depth", [101, 500, 5_000, 400_000])
@pytest.mark.parametrize("odd", ["", "\\u0000", "\\ud800"])
def test_data_that_is_too_deep_keeps_its_plain_members_and_the_reason(depth: int, odd: str) -> None:
    deep = '{"]": "[{", "a":' * depth + "1" + "}" * depth
    written = body(data={"task_id": "t1", "result": "DEEP"}).replace(b'"DEEP"', f'["{odd}", {deep}, 2]'.encode())
    event = decode_foreign_agent_event(written)
    assert event.data == {"task_id": "t1", "unreadable": "the value is nested deeper than 100 levels"}


@given(objects)
def test_data_lists_where_text_stands_for_what_no_store_holds(data: dict[str, Any]) -> None:
    event = decode_foreign_agent_event(body(data={"kept": data}))
    assert event.data.get("escaped", []) == [
        f"/kept{place}" for place in to_storable(json.loads(json.dumps(data))).escaped
    ]
