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

from audit_consumer.placement import EventPlacer, SessionPlacement
from audit_consumer.projection_rows import (
    INSERT_EVENTS,
    INSERT_EVENTS_CHECKING_JSON,
    LOCK_OFFSET,
    NO_PARKED_RECORDS,
    RecordBatch,
    SessionKey,
    advance_offsets,
    load_parked_records,
    load_repeated_events,
    load_session_heads,
    park_undecodable_records,
    write_parked_records,
    write_projected_events,
    write_session_heads,
    write_tool_usage,
)
from audit_consumer.records import EventCandidate, KafkaRecord, read_candidate
from audit_consumer.tracing import EventSpans
from flotilla.contracts.errors import Undecodable
from flotilla.eventstore.snapshots import EVENTS_PER_SNAPSHOT
from flotilla.postgres import Connection, Pool

ChangeParkedRecords: TypeAlias = Callable[[Connection], Awaitable[None]]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ProjectionResult:
    """What a transaction did."""

    appended: list[EventCandidate] = field(default_factory=list)
    duplicates: int = 0
    conflicts: int = 0
    missing: int = 0
    undecodable: int = 0
    parked_sessions: list[SessionKey] = field(default_factory=list)
    """Sessions of this transaction that are parked after it."""
    snapshots_due: list[SessionKey] = field(default_factory=list)


@dataclass(slots=True)
class _DecodedBatches:
    """A decoded batch."""

    candidates: dict[SessionKey, list[EventCandidate]] = field(default_factory=lambda: defaultdict(list))
    undecodable: list[tuple[KafkaRecord, str]] = field(default_factory=list)


class Projection:
    """One generation of the projection. Safe for concurrent batches of different partitions."""

    def __init__(self, pool: Pool, operator_tenant: str = "default") -> None:
        """`operator_tenant` owns the records that name no tenant."""
        self._pool = pool
        self._operator_tenant = operator_tenant

    async def project_batches(self, batches: Sequence[RecordBatch]) -> ProjectionResult:
        """Write the batches in one transaction.

        Raises:
            Fenced: a partition does not stand where its batch was read from; nothing was written.
        """
        read = _decode_batches(batches)
        spans = EventSpans(candidate for candidates in read.candidates.values() for candidate in candidates)
        try:
            outcome = await self._project_in_transaction(batches, read, INSERT_EVENTS)
        except (asyncpg.DataError, asyncpg.StatementTooComplexError) as problem:
            log.warning("event_without_json_copy", reason=str(problem))
            outcome = await self._project_in_transaction(batches, read, INSERT_EVENTS_CHECKING_JSON)
        finally:
            spans.end_all_spans()
        spans.log_projected_events(outcome.appended)
        return outcome

    async def place_parked_again(
        self, partition: int, key: SessionKey, decide: ChangeParkedRecords | None = None
    ) -> ProjectionResult:
        """Place what is parked of one session again, under its partition's fence; `decide` changes it before."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval(LOCK_OFFSET, partition)
            if decide is not None:
                await decide(connection)
            return await _place_candidates(connection, {key: []}, INSERT_EVENTS_CHECKING_JSON)

    async def _project_in_transaction(
        self, batches: Sequence[RecordBatch], read: _DecodedBatches, insert: str
    ) -> ProjectionResult:
        async with self._pool.acquire() as connection, connection.transaction():
            await advance_offsets(connection, batches)
            outcome = await _place_candidates(connection, read.candidates, insert)
            await park_undecodable_records(connection, self._operator_tenant, read.undecodable)
        outcome.undecodable = len(read.undecodable)
        return outcome


def _decode_batches(batches: Iterable[RecordBatch]) -> _DecodedBatches:
    read = _DecodedBatches()
    for batch in batches:
        for record in batch.records:
            try:
                candidate = read_candidate(record)
            except Undecodable as problem:
                read.undecodable.append((record, str(problem)))
            else:
                read.candidates[candidate.tenant_id, candidate.session_id].append(candidate)
    return read


async def _place_candidates(
    connection: Connection, arriving: Mapping[SessionKey, Sequence[EventCandidate]], insert: str
) -> ProjectionResult:
    heads = await load_session_heads(connection, arriving)
    waiting = await load_parked_records(connection, arriving, heads)
    stored = await load_repeated_events(connection, arriving, heads, waiting)
    outcome = ProjectionResult()
    placements: dict[SessionKey, SessionPlacement] = {}
    for key, candidates in arriving.items():
        held = waiting.get(key, NO_PARKED_RECORDS)
        placer = EventPlacer(heads.get(key), stored.get(key, {}), held.discarded, held.parked)
        for candidate in held.released:
            placer.append_set_aside_event(candidate)
        for candidate in candidates:
            placer.place_event(candidate)
        placements[key] = placer.final_placement()
    await write_projected_events(connection, placements.values(), insert)
    await write_session_heads(connection, placements)
    await write_tool_usage(connection, placements.values())
    await write_parked_records(connection, placements, [c for held in waiting.values() for c, _ in held.parked])
    for key, placement in placements.items():
        _add_to_result(outcome, key, placement)
    return outcome


def _add_to_result(outcome: ProjectionResult, key: SessionKey, placement: SessionPlacement) -> None:
    outcome.appended += [candidate for candidate, _ in placement.appended]
    outcome.duplicates += placement.duplicates
    outcome.conflicts += placement.conflicts
    outcome.missing += placement.missing
    if placement.parked:
        outcome.parked_sessions.append(key)
    if placement.head and placement.head.seq - placement.head.snapshot_seq >= EVENTS_PER_SNAPSHOT:
        outcome.snapshots_due.append(key)
