from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts import AgentEvent
from flotilla.contracts.envelope import decode_event, encode_event
from flotilla.contracts.errors import Undecodable

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
texts = st.none() | st.text(max_size=40)
events = st.builds(
    AgentEvent,
    type=st.text(min_size=1),
    source=st.text(min_size=1),
    subject=st.text(min_size=1),
    data=st.dictionaries(st.text(), json_values, max_size=4),
    time=st.datetimes(timezones=st.just(UTC)),
    tenant=texts,
    sequence=st.none() | st.integers(1, 2**53),
    subjectkey=texts,
    runid=texts,
    taskid=texts,
    traceparent=texts,
)


@given(events)
def test_an_event_survives_encoding(event: AgentEvent) -> None:
    assert decode_event(encode_event(event)) == event


@given(events)
def test_the_same_event_always_has_the_same_bytes(event: AgentEvent) -> None:
    assert encode_event(event) == encode_event(decode_event(encode_event(event)))


def test_the_document_is_a_cloudevent_without_empty_attributes() -> None:
    event = AgentEvent(
        type="flotilla.session.message.v1",
        source="/gateway",
        subject="s1",
        id="e1",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        data={"role": "user"},
        sequence=1,
    )
    assert msgspec.json.decode(encode_event(event)) == {
        "specversion": "1.0",
        "id": "e1",
        "source": "/gateway",
        "type": "flotilla.session.message.v1",
        "subject": "s1",
        "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/json",
        "data": {"role": "user"},
        "sequence": 1,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"type": "t"}',
        b'{"type": "t", "source": "/s", "subject": "s", "time": "2026-01-02T03:04:05"}',
        b'{"type": "t", "source": "/s", "subject": "s", "data": 3}',
        b'{"type": "t", "source": "/s", "subject": "s", "specversion": "0.3"}',
    ],
)
def test_what_is_no_cloudevent_is_undecodable(body: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_event(body)


def test_unknown_extension_attributes_are_ignored() -> None:
    assert decode_event(b'{"type": "t", "source": "/s", "subject": "s", "future": 1}').type == "t"


def test_ids_sort_by_creation() -> None:
    first, second = AgentEvent(type="t", source="/s", subject="s"), AgentEvent(type="t", source="/s", subject="s")
    assert first.id < second.id
    assert second.time - first.time < timedelta(seconds=5)
