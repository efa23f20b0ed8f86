"""Writes batches of records into the projection, each with the effect of exactly once.

A batch is one transaction. It begins by moving its partitions' offsets from where the batch was read: a row that is
not there any more means that another consumer owns the partition, and nothing is written.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
import structlog

from audit_consumer.placement import Placement, Placer
from audit_consumer.projection_rows import (
    INSERT,
    INSERT_CAREFULLY,
    LOCK_OFFSET,
    NOTHING,
    Batch,
    SessionKey,
    load_heads,
    load_stored,
    load_waiting,
    move_offsets,
    park_undecodable,
    write_events,
    write_heads,
    write_parked,
    write_tool_usage,
)
from audit_consumer.records import Candidate, Record, candidate_of
from audit_consumer.tracing import EventSpans
from flotilla.contracts.errors import Undecodable
from flotilla.eventstore.snapshots import SNAPSHOT_EVENTS
from flotilla.postgres import Connection, Pool

Decide: TypeAlias = Callable[[Connection], Awaitable[None]]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ProjectedBatch:
    """What a transaction did."""

    appended: list[Candidate] = field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    missing: int = 0
    undecodable: int = 0
    parked_sessions: list[SessionKey] = field(default_factory=list)
    """Sessions of this transaction that are parked after it."""
    snapshots_due: list[SessionKey] = field(default_factory=list)


@dataclass(slots=True)
class _Read:
    """A decoded batch."""

    candidates: dict[SessionKey, list[Candidate]] = field(default_factory=lambda: defaultdict(list))
    undecodable: list[tuple[Record, str]] = field(default_factory=list)


class Projection:
    """One generation of the projection. Safe for concurrent batches of different partitions."""

    def __init__(self, pool: Pool, operator_tenant: str = "default") -> None:
        """`operator_tenant` owns the records that name no tenant."""
        self._pool = pool
        self._operator_tenant = operator_tenant

    async def project(self, batches: Sequence[Batch]) -> ProjectedBatch:
        """Write the batches in one transaction.

        Raises:
            Fenced: a partition does not stand where its batch was read from; nothing was written.
        """
        read = _decode(batches)
        spans = EventSpans(candidate for candidates in read.candidates.values() for candidate in candidates)
        try:
            outcome = await self._project(batches, read, INSERT)
        except (asyncpg.DataError, asyncpg.StatementTooComplexError) as problem:
            log.warning("event_without_json_copy", reason=str(problem))
            outcome = await self._project(batches, read, INSERT_CAREFULLY)
        finally:
            spans.end()
        spans.log(outcome.appended)
        return outcome

    async def retry(self, partition: int, key: SessionKey, decide: Decide | None = None) -> ProjectedBatch:
        """Place what is parked of one session again, under its partition's fence; `decide` changes it before."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval(LOCK_OFFSET, partition)
            if decide is not None:
                await decide(connection)
            return await _place(connection, {key: []}, INSERT_CAREFULLY)

    async def _project(self, batches: Sequence[Batch], read: _Read, insert: str) -> ProjectedBatch:
        async with self._pool.acquire() as connection, connection.transaction():
            await move_offsets(connection, batches)
            outcome = await _place(connection, read.candidates, insert)
            await park_undecodable(connection, self._operator_tenant, read.undecodable)
        outcome.undecodable = len(read.undecodable)
        return outcome


def _decode(batches: Iterable[Batch]) -> _Read:
    read = _Read()
    for batch in batches:
        for record in batch.records:
            try:
                candidate = candidate_of(record)
            except Undecodable as problem:
                read.undecodable.append((record, str(problem)))
            else:
                read.candidates[candidate.tenant_id, candidate.session_id].append(candidate)
    return read


async def _place(
    connection: Connection, arriving: Mapping[SessionKey, Sequence[Candidate]], insert: str
) -> ProjectedBatch:
    heads = await load_heads(connection, arriving)
    waiting = await load_waiting(connection, arriving, heads)
    stored = await load_stored(connection, arriving, heads, waiting)
    outcome = ProjectedBatch()
    placements: dict[SessionKey, Placement] = {}
    for key, candidates in arriving.items():
        held = waiting.get(key, NOTHING)
        placer = Placer(heads.get(key), stored.get(key, {}), held.discarded, held.parked)
        for candidate in held.released:
            placer.release(candidate)
        for candidate in candidates:
            placer.take(candidate)
        placements[key] = placer.result()
    await write_events(connection, placements.values(), insert)
    await write_heads(connection, placements)
    await write_tool_usage(connection, placements.values())
    await write_parked(connection, placements, [c for held in waiting.values() for c, _ in held.parked])
    for key, placement in placements.items():
        _count(outcome, key, placement)
    return outcome


def _count(outcome: ProjectedBatch, key: SessionKey, placement: Placement) -> None:
    outcome.appended += [candidate for candidate, _ in placement.appended]
    outcome.duplicates += placement.duplicates
    outcome.conflicts += placement.conflicts
    outcome.missing += placement.missing
    if placement.parked:
        outcome.parked_sessions.append(key)
    if placement.head and placement.head.seq - placement.head.snapshot_seq >= SNAPSHOT_EVENTS:
        outcome.snapshots_due.append(key)
