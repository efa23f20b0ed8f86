"""The state of a session at any point, from snapshots where they reach and from events where they do not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import Invalid
from flotilla.eventstore.log import LineageSegment, SessionLog
from flotilla.eventstore.path import SeqRange, effective_seq_ranges
from flotilla.eventstore.sealed_snapshots import (
    SnapshotUnreadable,
    delete_sealed_snapshot,
    find_sealed_snapshots,
    load_sealed_snapshots,
    store_sealed_snapshots,
)
from flotilla.eventstore.snapshots import EVENTS_PER_SNAPSHOT, delta_from_snapshot
from flotilla.eventstore.state import SessionState, StateDelta, combine_deltas, delta_of_events, rollback_target_seq
from flotilla.postgres import Pool, tenant_transaction

# Rollbacks and snapshots of a lineage, whose sessions count above $3 and up to $4 each.
_SELECT_LANDMARKS = """
WITH lineage AS (SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS l (session_id, after_seq, upto_seq))
SELECT e.session_id, NULL::bigint AS first_seq, e.seq, e.rolled_back_to, e.occurred_at AS earliest
FROM lineage AS l JOIN audit.session_events AS e ON e.tenant_id = $1 AND e.session_id = l.session_id
    AND e.seq > l.after_seq AND e.seq <= l.upto_seq AND e.rolled_back_to IS NOT NULL
UNION ALL
SELECT s.session_id, s.first_seq, s.seq, NULL, s.earliest
FROM lineage AS l JOIN audit.snapshots AS s ON s.tenant_id = $1 AND s.session_id = l.session_id
    AND s.seq > l.after_seq AND s.seq <= l.upto_seq
"""
# Snapshots by session and last seq.
_SELECT_SNAPSHOTS = """
SELECT s.seq, s.summary, s.counts, s.messages, s.tool_calls, s.tool_results, s.errors
FROM unnest($2::text[], $3::bigint[]) AS w (session_id, seq)
JOIN audit.snapshots AS s ON s.tenant_id = $1 AND s.session_id = w.session_id AND s.seq = w.seq
"""
# The newest event of some stretches that is not later than $5.
_SELECT_LAST_SEQ_BEFORE_TIME = """
SELECT max(e.seq) FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS l (session_id, after_seq, upto_seq)
JOIN audit.session_events AS e ON e.tenant_id = $1 AND e.session_id = l.session_id
    AND e.seq > l.after_seq AND e.seq <= l.upto_seq AND e.occurred_at <= $5
"""


@dataclass(frozen=True, slots=True)
class _RollbackMark:
    seq: int
    to_seq: int
    time: datetime


@dataclass(frozen=True, slots=True)
class _KnownSnapshot:
    """A stretch that has a snapshot."""

    session_id: str
    first_seq: int
    seq: int
    earliest: datetime
    is_sealed: bool = False


@dataclass(frozen=True, slots=True)
class _Landmarks:
    rollbacks: list[_RollbackMark]
    snapshots: list[_KnownSnapshot]

    @property
    def covered_seq(self) -> int:
        """The end of the last snapshot. What no snapshot before it holds: rollbacks, the last events before a fork,
        stretches with encrypted events that nobody has folded."""
        return max((known.seq for known in self.snapshots), default=0)


class SessionStateReader:
    """States of the sessions of one tenant.

    With `sealed_snapshots` stretches of encrypted events are folded once: who does leaves an encrypted snapshot.
    """

    def __init__(self, pool: Pool, tenant_id: str, log: SessionLog, *, sealed_snapshots: bool = False) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._log = log
        self._sealed = sealed_snapshots

    async def load_state_at(self, session_id: str, seq: int | None = None) -> tuple[SessionState, list[SeqRange]]:
        """The state at `seq` (or at the head), and the path of events that make it up."""
        segments = await self._log.lineage(session_id)
        head = segments[0].upto_seq
        if seq is None:
            seq = head
        if not 0 <= seq <= head:
            raise Invalid(f"seq {seq}: session {session_id} has events up to {head}")
        marks = await self._load_landmarks(segments, seq)
        tail = {event.sequence or 0: event for event in await self._load_events(session_id, marks.covered_seq, seq)}
        rollbacks = {mark.seq: mark.to_seq for mark in marks.rollbacks}
        rollbacks |= {at: to for at, event in tail.items() if (to := rollback_target_seq(event)) is not None}
        path = effective_seq_ranges(seq, rollbacks)
        await self._store_sealed_snapshots(segments, marks, tail)
        return combine_deltas(
            session_id, seq, await self._collect_deltas(session_id, path, marks.snapshots, tail)
        ), path

    async def find_last_seq_before_time(self, session_id: str, time: datetime) -> int:
        """The newest event not later than `time`, 0 for none. By seq: producers' clocks decide no order."""
        segments = await self._log.lineage(session_id)
        head = segments[0].upto_seq
        marks = await self._load_landmarks(segments, head)
        tail = await self._load_events(session_id, marks.covered_seq, head)
        candidates = [event.sequence or 0 for event in tail if event.time <= time]
        candidates += [mark.seq for mark in marks.rollbacks if mark.time <= time]
        stretches = _ranges_without_snapshot(segments, marks)
        holding = [known for known in marks.snapshots if known.earliest <= time]
        if holding:
            newest = max(holding, key=lambda known: known.seq)
            stretches.append(LineageSegment(newest.session_id, newest.first_seq - 1, newest.seq))
        if stretches:
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                newest_seq = await connection.fetchval(
                    _SELECT_LAST_SEQ_BEFORE_TIME,
                    self._tenant_id,
                    [stretch.session_id for stretch in stretches],
                    [stretch.after_seq for stretch in stretches],
                    [stretch.upto_seq for stretch in stretches],
                    time,
                )
            candidates.append(newest_seq or 0)
        return max(candidates, default=0)

    async def _load_landmarks(self, segments: Sequence[LineageSegment], upto_seq: int) -> _Landmarks:
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(
                _SELECT_LANDMARKS,
                self._tenant_id,
                [segment.session_id for segment in segments],
                [segment.after_seq for segment in segments],
                [min(segment.upto_seq, upto_seq) for segment in segments],
            )
            sealed = (
                await find_sealed_snapshots(connection, self._tenant_id, segments, upto_seq) if self._sealed else []
            )
        clear = [_known_snapshot_from_row(row) for row in rows if row["first_seq"] is not None]
        return _Landmarks(
            [
                _RollbackMark(row["seq"], row["rolled_back_to"], row["earliest"])
                for row in rows
                if row["first_seq"] is None
            ],
            _drop_redundant_sealed_snapshots(clear, [_known_snapshot_from_row(row, is_sealed=True) for row in sealed]),
        )

    async def _store_sealed_snapshots(
        self, segments: Sequence[LineageSegment], marks: _Landmarks, tail: dict[int, AgentEvent]
    ) -> None:
        if self._sealed and len(tail) >= EVENTS_PER_SNAPSHOT:
            covered = [SeqRange(known.first_seq - 1, known.seq) for known in marks.snapshots]
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                await store_sealed_snapshots(connection, self._tenant_id, segments, covered, tail)

    async def _collect_deltas(
        self,
        session_id: str,
        path: Iterable[SeqRange],
        snapshots: Sequence[_KnownSnapshot],
        tail: dict[int, AgentEvent],
    ) -> list[StateDelta]:
        """One delta for each snapshot on the path and for each stretch of events between them, oldest first."""
        used: list[_KnownSnapshot] = []
        deltas: dict[int, StateDelta] = {}
        for stretch in path:
            inside = [k for k in snapshots if k.first_seq > stretch.after_seq and k.seq <= stretch.upto_seq]
            used += inside
            for gap in _subtract_ranges(stretch, inside):
                deltas[gap.upto_seq] = delta_of_events(await self._delta_from_tail(session_id, gap, tail))
        deltas |= await self._load_snapshot_deltas(used)
        return [deltas[seq] for seq in sorted(deltas)]

    async def _load_snapshot_deltas(self, known: Sequence[_KnownSnapshot]) -> dict[int, StateDelta]:
        if not known:
            return {}
        clear = [k for k in known if not k.is_sealed]
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            rows = await connection.fetch(
                _SELECT_SNAPSHOTS, self._tenant_id, [k.session_id for k in clear], [k.seq for k in clear]
            )
        deltas = {row["seq"]: delta_from_snapshot(row) for row in rows}
        return deltas | await self._load_sealed_deltas([(k.session_id, k.seq) for k in known if k.is_sealed])

    async def _load_sealed_deltas(self, wanted: Sequence[tuple[str, int]]) -> dict[int, StateDelta]:
        if not wanted:
            return {}
        try:
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                opened = await load_sealed_snapshots(connection, self._tenant_id, wanted)
        except SnapshotUnreadable as unreadable:
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                await delete_sealed_snapshot(connection, self._tenant_id, unreadable)
            raise
        return {one.seq: delta_from_snapshot(one) for one in opened}

    async def _delta_from_tail(self, session_id: str, gap: SeqRange, tail: dict[int, AgentEvent]) -> list[AgentEvent]:
        if gap.after_seq + 1 in tail:
            return [tail[seq] for seq in range(gap.after_seq + 1, gap.upto_seq + 1)]
        return await self._load_events(session_id, gap.after_seq, gap.upto_seq)

    async def _load_events(self, session_id: str, after_seq: int, upto_seq: int) -> list[AgentEvent]:
        if after_seq >= upto_seq:
            return []
        pages = self._log.events(session_id, after_seq + 1, upto_seq)
        return [event async for events in pages for event in events]


def _known_snapshot_from_row(row: "asyncpg.Record", *, is_sealed: bool = False) -> _KnownSnapshot:
    return _KnownSnapshot(row["session_id"], row["first_seq"], row["seq"], row["earliest"], is_sealed)


def _drop_redundant_sealed_snapshots(
    clear: Sequence[_KnownSnapshot], sealed: Sequence[_KnownSnapshot]
) -> list[_KnownSnapshot]:
    """The snapshots without the sealed ones that cover what a clear one does."""
    return [*clear, *(s for s in sealed if not any(c.first_seq <= s.seq and s.first_seq <= c.seq for c in clear))]


def _ranges_without_snapshot(segments: Iterable[LineageSegment], marks: _Landmarks) -> list[LineageSegment]:
    """The stretches before the last snapshot's end that no snapshot holds."""
    gaps = _subtract_ranges(SeqRange(0, marks.covered_seq), marks.snapshots)
    cut = [
        LineageSegment(s.session_id, max(s.after_seq, gap.after_seq), min(s.upto_seq, gap.upto_seq))
        for gap in gaps
        for s in segments
    ]
    return [stretch for stretch in cut if stretch.after_seq < stretch.upto_seq]


def _subtract_ranges(stretch: SeqRange, inside: Iterable[_KnownSnapshot]) -> list[SeqRange]:
    """What `inside` leaves uncovered of `stretch`."""
    gaps = []
    after_seq = stretch.after_seq
    for known in sorted(inside, key=lambda known: known.seq):
        if known.first_seq > after_seq + 1:
            gaps.append(SeqRange(after_seq, known.first_seq - 1))
        after_seq = known.seq
    if after_seq < stretch.upto_seq:
        gaps.append(SeqRange(after_seq, stretch.upto_seq))
    return gaps
