"""The fold and its pieces, for any log."""

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.contracts.envelope import AgentEvent, decode_event, encode_event
from flotilla.contracts.errors import UnknownType
from flotilla.contracts.session_events import SessionEventKind, session_event_type
from flotilla.eventstore import fold, state_json, state_json_blocks
from flotilla.eventstore.chunks import ChunkedSequence, JsonChunk
from flotilla.eventstore.snapshots import delta_from_snapshot, make_snapshot
from flotilla.eventstore.state import SessionState, combine_deltas, delta_of_events
from flotilla.eventstore.upcasters import upcast_event
from tests.support.properties import patient

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none(), st.lists(st.booleans(), max_size=2))


def event(seq: int, kind: SessionEventKind, data: dict[str, Any]) -> AgentEvent:
    return AgentEvent(
        type=session_event_type(kind),
        source="/tests",
        subject="s1",
        sequence=seq,
        tenant="default",
        time=START + timedelta(seconds=seq),
        data=data,
    )


# One event's kind and data; some of it does not fit.
TEXT = st.text(max_size=5)
CONTENTS: st.SearchStrategy[tuple[SessionEventKind, dict[str, Any]]] = st.one_of(
    st.tuples(
        st.just("message"), st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT})
    ),
    st.tuples(st.just("message"), st.just({"text": "does not fit"})),
    st.tuples(st.just("tool_call"), st.fixed_dictionaries({"tool": TEXT, "call_id": NAMES, "args": st.just({})})),
    st.tuples(
        st.just("tool_result"),
        st.fixed_dictionaries({"tool": TEXT, "call_id": NAMES, "ok": st.booleans(), "duration_ms": st.just(1.5)}),
    ),
    st.tuples(st.just("error"), st.fixed_dictionaries({"type": TEXT, "message": TEXT, "where": TEXT})),
    st.tuples(
        st.just("state_change"),
        st.fixed_dictionaries(
            {
                "change": st.just("counted"),
                "set": st.dictionaries(NAMES, VALUES, max_size=2),
                "unset": st.lists(NAMES, max_size=2),
                "status": st.one_of(st.none(), TEXT),
            }
        ),
    ),
)


@st.composite
def logs(draw: st.DrawFn, *, rollbacks: bool = True) -> list[AgentEvent]:
    log = []
    for seq in range(1, draw(st.integers(0, 25)) + 1):
        if rollbacks and draw(st.integers(0, 5)) == 0:
            data = {"change": "rolled_back", "details": {"to_seq": draw(st.integers(0, seq - 1))}}
            log.append(event(seq, "state_change", data))
        else:
            log.append(event(seq, *draw(CONTENTS)))
    return log


def naive(log: Sequence[AgentEvent]) -> dict[str, Any]:
    """The state by the plainest code: one dictionary, changed event by event; a rollback starts again."""
    state: dict[str, Any] = {"variables": {}, "status": None, "messages": [], "calls": [], "results": [], "errors": 0}
    for seen in log:
        data: Any = seen.data
        kind = seen.type.split(".")[2]
        if kind == "state_change" and data["change"] == "rolled_back":
            state = naive(log[: data["details"]["to_seq"]])
        elif kind == "state_change":
            for name in data["unset"]:
                state["variables"].pop(name, None)
            state["variables"].update(data["set"])
            state["status"] = state["status"] if data["status"] is None else data["status"]
        elif kind == "message" and "content" in data:
            state["messages"].append(data["content"])
        elif kind == "tool_call":
            state["calls"].append(data["call_id"])
        elif kind == "tool_result":
            state["results"].append(data["call_id"])
        else:
            state["errors"] += 1
    return state


def shown(state: SessionState) -> dict[str, Any]:
    return {
        "variables": dict(state.variables),
        "status": state.status,
        "messages": [said.content for said in state.messages],
        "calls": [call.call_id for call in state.tool_calls],
        "results": [result.call_id for result in state.tool_results],
        "errors": len(state.errors),
    }


@patient
@given(logs())
def test_the_fold_is_what_the_plainest_code_gives_at_every_point(log: list[AgentEvent]) -> None:
    for seq in range(len(log) + 1):
        assert shown(fold("s1", log, seq)) == naive(log[:seq])


@patient
@given(logs())
def test_the_state_after_a_rollback_is_the_state_at_its_target(log: list[AgentEvent]) -> None:
    for target in range(len(log) + 1):
        back = event(len(log) + 1, "state_change", {"change": "rolled_back", "details": {"to_seq": target}})
        assert shown(fold("s1", [*log, back])) == shown(fold("s1", log, target))


@patient
@given(logs())
def test_the_fold_does_not_depend_on_the_order_in_which_events_arrive(log: list[AgentEvent]) -> None:
    assert fold("s1", reversed(log)) == fold("s1", log)


@patient
@given(logs(rollbacks=False), st.data())
def test_deltas_of_neighbouring_stretches_add_up_however_the_log_is_cut(
    log: list[AgentEvent], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(log)), max_size=4)) | {0, len(log)})
    pieces = [log[start:end] for start, end in itertools.pairwise(cuts)]
    whole = fold("s1", log)
    assert combine_deltas("s1", len(log), [delta_of_events(piece) for piece in pieces]) == whole
    snapshots = [delta_from_snapshot(make_snapshot(piece)) for piece in pieces if piece]
    summed = combine_deltas("s1", len(log), snapshots)
    assert summed == whole
    assert json.loads(state_json(summed)) == json.loads(state_json(whole))


def test_a_large_state_comes_in_blocks_of_about_a_megabyte() -> None:
    log = [event(seq, "message", {"role": "user", "content": "x" * 300_000}) for seq in range(1, 13)]
    state = combine_deltas("s1", 12, [delta_from_snapshot(make_snapshot([one])) for one in log])
    blocks = list(state_json_blocks(state))
    assert [round(len(block) / 1e5) for block in blocks] == [12, 12, 12, 0]
    assert json.loads(b"".join(blocks)) == json.loads(state_json(fold("s1", log)))


@patient
@given(logs())
def test_the_fold_is_the_same_after_a_trip_through_the_wire(log: list[AgentEvent]) -> None:
    assert fold("s1", [decode_event(encode_event(one)) for one in log]) == fold("s1", log)


def test_a_call_without_a_result_is_open() -> None:
    call = {"tool": "t", "args": {}}
    log = [event(1, "tool_call", {**call, "call_id": "x"}), event(2, "tool_call", {**call, "call_id": "y"})]
    log.append(event(3, "tool_result", {"tool": "t", "call_id": "x", "ok": True, "duration_ms": 1.0}))
    assert [open_.call_id for open_ in fold("s1", log).open_tool_calls()] == ["y"]


def test_a_type_of_a_newer_version_is_refused_rather_than_left_out() -> None:
    newer = AgentEvent(type="flotilla.session.message.v2", source="/t", subject="s1", sequence=1, data={})
    with pytest.raises(UnknownType, match="upgrade"):
        fold("s1", [newer])


def test_an_older_version_is_lifted_step_by_step() -> None:
    upcasters = {
        "flotilla.session.said.v0": lambda data: ("flotilla.session.message.v0", {"content": data["text"]}),
        "flotilla.session.message.v0": lambda data: ("flotilla.session.message.v1", {"role": "user", **data}),
    }
    old = AgentEvent(type="flotilla.session.said.v0", source="/t", subject="s1", sequence=1, data={"text": "hi"})
    lifted = upcast_event(old, upcasters)
    assert (lifted.type, lifted.data) == ("flotilla.session.message.v1", {"role": "user", "content": "hi"})
    assert (lifted.id, lifted.sequence) == (old.id, old.sequence)


@patient
@given(st.lists(st.lists(st.integers(), max_size=5), max_size=6), st.data())
def test_chunks_behave_like_the_list_of_all_their_items(pieces: list[list[int]], data: st.DataObject) -> None:
    flat = [item for piece in pieces for item in piece]
    chunks: ChunkedSequence[int] = ChunkedSequence([JsonChunk(piece) for piece in pieces])
    assert (len(chunks), list(chunks), json.loads(chunks.to_json())) == (len(flat), flat, flat)
    assert chunks == flat
    assert chunks != [*flat, 0]
    index = data.draw(st.integers(-len(flat) - 1, len(flat)))
    try:
        expected: object = flat[index]
    except IndexError:
        with pytest.raises(IndexError):
            chunks[index]
    else:
        assert chunks[index] == expected
    assert chunks[1:4] == flat[1:4]
