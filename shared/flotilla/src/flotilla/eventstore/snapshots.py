"""Snapshots: what stretches of a session's own events add to its state, kept so that they need not be folded again.

A snapshot depends on its events alone, not on what came before, so snapshots of a long session together are as
large as its state, not as its state times their number. Only the audit consumer writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.json_types import JsonObject
from flotilla.eventstore.chunks import ChunkedSequence, JsonChunk
from flotilla.eventstore.state import (
    ErrorEntry,
    MessageEntry,
    StateDelta,
    ToolCallEntry,
    ToolResultEntry,
    delta_of_events,
)

EVENTS_PER_SNAPSHOT = 1000
"""A session gets a snapshot for each stretch of this many events."""

_messages = msgspec.json.Decoder(list[MessageEntry])
_calls = msgspec.json.Decoder(list[ToolCallEntry])
_results = msgspec.json.Decoder(list[ToolResultEntry])
_errors = msgspec.json.Decoder(list[ErrorEntry])


class _SnapshotSummary(msgspec.Struct):
    upto_time: datetime | None
    status: str | None
    set: JsonObject
    unset: list[str]


_summary = msgspec.json.Decoder(_SnapshotSummary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One row of `audit.snapshots`, but for tenant and session."""

    first_seq: int
    seq: int
    earliest: datetime
    summary: bytes
    counts: Sequence[int]
    messages: bytes
    tool_calls: bytes
    tool_results: bytes
    errors: bytes


def make_snapshot(events: Sequence[AgentEvent]) -> Snapshot:
    """The snapshot of neighbouring events without a rollback among them."""
    delta = delta_of_events(events)
    lists: tuple[ChunkedSequence[Any], ...] = (delta.messages, delta.tool_calls, delta.tool_results, delta.errors)
    messages, tool_calls, tool_results, errors = (items.to_json() for items in lists)
    return Snapshot(
        first_seq=events[0].sequence or 0,
        seq=delta.upto_seq,
        earliest=min(event.time for event in events),
        summary=msgspec.json.encode(_SnapshotSummary(delta.upto_time, delta.status, delta.set, list(delta.unset))),
        counts=[len(items) for items in lists],
        messages=messages,
        tool_calls=tool_calls,
        tool_results=tool_results,
        errors=errors,
    )


def delta_from_snapshot(row: "asyncpg.Record | Snapshot") -> StateDelta:
    """The delta that a snapshot holds; its lists stay JSON until they are looked at."""
    fields = {name: getattr(row, name) for name in Snapshot.__slots__} if isinstance(row, Snapshot) else dict(row)
    summary = _summary.decode(fields["summary"])
    counts = fields["counts"]
    return replace(
        StateDelta(),
        upto_seq=fields["seq"],
        upto_time=summary.upto_time,
        status=summary.status,
        set=summary.set,
        unset=summary.unset,
        messages=ChunkedSequence([JsonChunk.from_json_array(fields["messages"], counts[0], _messages)]),
        tool_calls=ChunkedSequence([JsonChunk.from_json_array(fields["tool_calls"], counts[1], _calls)]),
        tool_results=ChunkedSequence([JsonChunk.from_json_array(fields["tool_results"], counts[2], _results)]),
        errors=ChunkedSequence([JsonChunk.from_json_array(fields["errors"], counts[3], _errors)]),
    )
