"""Writes batches of records into the projection, each with the effect of exactly once.

A batch is one transaction. It begins by moving its partitions' offsets from where the batch was read: a row that is
not there any more means that another consumer owns the partition, and nothing is written.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import asyncpg
import structlog

from audit_consumer.placement import Head, Placement, Placer, Stored
from audit_consumer.records import Candidate, Record, candidate_of, event_id_of
from audit_consumer.tracing import EventSpans
from flotilla.contracts.errors import Conflict, Undecodable
from flotilla.eventstore.snapshots import SNAPSHOT_EVENTS
from flotilla.kafka.session_log import record_hash
from flotilla.postgres import Connection, Pool

SET_ASIDE = "set aside"
"""How the detail of events begins that gave way to another history; others were discarded one by one."""

SessionKey: TypeAlias = tuple[str, str]
Decide: TypeAlias = Callable[[Connection], Awaitable[None]]

# The fence: as many rows as partitions, or somebody else moved on from here.
_MOVE_OFFSETS = """
UPDATE consumer_offsets AS o
SET next_offset = m.upto, last_record = m.last_record, last_event_id = m.last_event_id, updated_at = now()
FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bytea[], $5::uuid[])
    AS m (kafka_partition, read_from, upto, last_record, last_event_id)
WHERE o.kafka_partition = m.kafka_partition AND o.next_offset = m.read_from
"""
# The same fence for work that reads no records.
_LOCK_OFFSET = "SELECT next_offset FROM consumer_offsets WHERE kafka_partition = $1 FOR UPDATE"
_HEADS = """
SELECT h.* FROM unnest($1::text[], $2::text[]) AS s (tenant_id, session_id)
JOIN session_heads AS h USING (tenant_id, session_id)
"""
# What waits for these sessions, and what a person set aside.
_PARKED = """
SELECT p.* FROM unnest($1::text[], $2::text[]) AS s (tenant_id, session_id)
JOIN parked_events AS p USING (tenant_id, session_id) WHERE p.reason <> 'undecodable' ORDER BY p.kafka_offset
"""
_STORED = """
SELECT e.tenant_id, e.session_id, e.seq, e.event_id, e.body
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (tenant_id, session_id, seq)
JOIN session_events AS e USING (tenant_id, session_id, seq)
"""
_STAGED_COLUMNS = """tenant_id, session_id, seq, event_id, type, occurred_at, run_id, task_id, rolled_back_to,
    traceparent, kafka_partition, kafka_offset, hash, body"""
_INSERT = f"""
INSERT INTO session_events ({_STAGED_COLUMNS}, event)
SELECT {_STAGED_COLUMNS}, convert_from(body, 'UTF8')::jsonb FROM staged_events
"""  # noqa: S608 - constants
# For batches with JSON that jsonb can't hold; checks each document, so it is slower.
_INSERT_CAREFULLY = f"""
INSERT INTO session_events ({_STAGED_COLUMNS}, event)
SELECT {_STAGED_COLUMNS}, CASE WHEN pg_input_is_valid(convert_from(body, 'UTF8'), 'jsonb')
    THEN convert_from(body, 'UTF8')::jsonb END FROM staged_events
"""  # noqa: S608 - constants
_SET_HEADS = """
INSERT INTO session_heads AS h (tenant_id, session_id, kafka_partition, first_seq, first_offset, parent_session_id, seq,
    hash, snapshot_seq)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
    $8::bytea[], $9::bigint[])
ON CONFLICT (tenant_id, session_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, dirty = true
"""
_ADD_USAGE = """
INSERT INTO tool_usage (tenant_id, session_id, seq, tool, agent, ok, duration_ms, error, occurred_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::boolean[],
    $7::double precision[], $8::text[], $9::timestamptz[])
"""
_UNPARK = """
DELETE FROM parked_events AS p USING unnest($1::text[], $2::integer[], $3::bigint[]) AS g (tenant_id, part, offs)
WHERE p.tenant_id = g.tenant_id AND p.kafka_partition = g.part AND p.kafka_offset = g.offs
"""
_PARK = """
INSERT INTO parked_events AS p (tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail,
    body)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[], $6::uuid[], $7::text[],
    $8::text[], $9::bytea[])
ON CONFLICT (tenant_id, kafka_partition, kafka_offset) DO UPDATE SET reason = excluded.reason, detail = excluded.detail
WHERE p.reason <> 'discarded' OR p.body <> excluded.body
"""

log = structlog.get_logger(__name__)


class Fenced(Conflict):
    """Another consumer owns a partition of this batch; nothing was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbouring records of one partition, read from `read_from` on."""

    partition: int
    read_from: int
    records: Sequence[Record]

    @property
    def upto(self) -> int:
        """Where the next batch begins."""
        return self.records[-1].offset + 1

    @property
    def last_record(self) -> bytes:
        """What the newest record is known by."""
        return record_hash(self.records[-1].key, self.records[-1].value)


@dataclass(slots=True)
class Outcome:
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


@dataclass(slots=True)
class _Waiting:
    """What the database holds against a session."""

    parked: list[tuple[Candidate, str]] = field(default_factory=list)
    discarded: list[Stored] = field(default_factory=list)
    released: list[Candidate] = field(default_factory=list)
    """Forbidden events that a person looked at: they keep their place in the chain, as evidence, and steer nothing."""


@dataclass(frozen=True, slots=True)
class _ParkedRecord:
    """A parked event, shaped as the record it was."""

    partition: int
    offset: int
    value: bytes
    key: None = None
    headers: tuple[tuple[str, bytes], ...] = ()


class Projection:
    """One generation of the projection. Safe for concurrent batches of different partitions."""

    def __init__(self, pool: Pool, operator_tenant: str = "default") -> None:
        """`operator_tenant` owns the records that name no tenant."""
        self._pool = pool
        self._operator_tenant = operator_tenant

    async def project(self, batches: Sequence[Batch]) -> Outcome:
        """Write the batches in one transaction.

        Raises:
            Fenced: a partition does not stand where its batch was read from; nothing was written.
        """
        read = _decode(batches)
        spans = EventSpans(candidate for candidates in read.candidates.values() for candidate in candidates)
        try:
            outcome = await self._project(batches, read, _INSERT)
        except (asyncpg.DataError, asyncpg.StatementTooComplexError) as problem:
            log.warning("event_without_json_copy", reason=str(problem))
            outcome = await self._project(batches, read, _INSERT_CAREFULLY)
        finally:
            spans.end()
        spans.log(outcome.appended)
        return outcome

    async def retry(self, partition: int, key: SessionKey, decide: Decide | None = None) -> Outcome:
        """Place what is parked of one session again, under its partition's fence; `decide` changes it before."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval(_LOCK_OFFSET, partition)
            if decide is not None:
                await decide(connection)
            return await _place(connection, {key: []}, _INSERT_CAREFULLY)

    async def _project(self, batches: Sequence[Batch], read: _Read, insert: str) -> Outcome:
        async with self._pool.acquire() as connection, connection.transaction():
            await _move_offsets(connection, batches)
            outcome = await _place(connection, read.candidates, insert)
            await _park_undecodable(connection, self._operator_tenant, read.undecodable)
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


async def _move_offsets(connection: Connection, batches: Sequence[Batch]) -> None:
    status = await connection.execute(
        _MOVE_OFFSETS,
        [batch.partition for batch in batches],
        [batch.read_from for batch in batches],
        [batch.upto for batch in batches],
        [batch.last_record for batch in batches],
        [event_id_of(batch.records[-1]) for batch in batches],
    )
    if status != f"UPDATE {len(batches)}":
        raise Fenced(f"partitions {[batch.partition for batch in batches]}: another consumer moved on ({status})")


async def _place(connection: Connection, arriving: Mapping[SessionKey, Sequence[Candidate]], insert: str) -> Outcome:
    heads = await _load_heads(connection, arriving)
    waiting = await _load_waiting(connection, arriving, heads)
    stored = await _load_stored(connection, arriving, heads, waiting)
    outcome = Outcome()
    placements: dict[SessionKey, Placement] = {}
    for key, candidates in arriving.items():
        held = waiting.get(key, _NOTHING)
        placer = Placer(heads.get(key), stored.get(key, {}), held.discarded, held.parked)
        for candidate in held.released:
            placer.release(candidate)
        for candidate in candidates:
            placer.take(candidate)
        placements[key] = placer.result()
    await _write_events(connection, placements.values(), insert)
    await _write_heads(connection, placements)
    await _write_usage(connection, placements.values())
    await _write_parked(connection, placements, [c for held in waiting.values() for c, _ in held.parked])
    for key, placement in placements.items():
        _count(outcome, key, placement)
    return outcome


def _count(outcome: Outcome, key: SessionKey, placement: Placement) -> None:
    outcome.appended += [candidate for candidate, _ in placement.appended]
    outcome.duplicates += placement.duplicates
    outcome.conflicts += placement.conflicts
    outcome.missing += placement.missing
    if placement.parked:
        outcome.parked_sessions.append(key)
    if placement.head and placement.head.seq - placement.head.snapshot_seq >= SNAPSHOT_EVENTS:
        outcome.snapshots_due.append(key)


_NOTHING = _Waiting()


async def _load_heads(connection: Connection, keys: Iterable[SessionKey]) -> dict[SessionKey, Head]:
    rows = await connection.fetch(_HEADS, *_columns(keys, 2))
    return {
        (row["tenant_id"], row["session_id"]): Head(
            row["seq"],
            row["hash"],
            row["first_seq"],
            row["first_offset"],
            row["parent_session_id"],
            row["snapshot_seq"],
            row["kafka_partition"],
        )
        for row in rows
    }


async def _load_waiting(
    connection: Connection, keys: Iterable[SessionKey], heads: Mapping[SessionKey, Head]
) -> dict[SessionKey, _Waiting]:
    waiting: dict[SessionKey, _Waiting] = defaultdict(_Waiting)
    for row in await connection.fetch(_PARKED, *_columns(keys, 2)):
        key = (row["tenant_id"], row["session_id"])
        candidate = candidate_of(_ParkedRecord(row["kafka_partition"], row["kafka_offset"], row["body"]))
        if row["reason"] != "discarded":
            waiting[key].parked.append((candidate, row["reason"]))
            continue
        waiting[key].discarded.append(Stored(row["event_id"], row["body"]))
        head = heads.get(key)
        is_ahead = head is None or candidate.seq > head.seq
        if candidate.forbidden is not None and is_ahead and not row["detail"].startswith(SET_ASIDE):
            waiting[key].released.append(replace(candidate, forbidden=None))
    return waiting


async def _load_stored(
    connection: Connection,
    arriving: Mapping[SessionKey, Sequence[Candidate]],
    heads: Mapping[SessionKey, Head],
    waiting: Mapping[SessionKey, _Waiting],
) -> dict[SessionKey, dict[int, Stored]]:
    """The projected events whose seq comes again. Mostly none, and then the database is not asked."""
    repeated = [
        (*key, candidate.seq)
        for key, candidates in arriving.items()
        if (head := heads.get(key)) is not None
        for candidate in [*candidates, *(c for c, _ in waiting.get(key, _NOTHING).parked)]
        if candidate.seq <= head.seq
    ]
    stored: dict[SessionKey, dict[int, Stored]] = defaultdict(dict)
    if repeated:
        for row in await connection.fetch(_STORED, *_columns(repeated, 3)):
            stored[row["tenant_id"], row["session_id"]][row["seq"]] = Stored(row["event_id"], row["body"])
    return stored


async def _write_events(connection: Connection, placements: Iterable[Placement], insert: str) -> None:
    rows = [
        (
            c.tenant_id,
            c.session_id,
            c.seq,
            c.event_id,
            c.type,
            c.occurred_at,
            c.run_id,
            c.task_id,
            c.rolled_back_to,
            c.traceparent,
            c.partition,
            c.offset,
            chain_hash,
            c.body,
        )
        for placement in placements
        for c, chain_hash in placement.appended
    ]
    if rows:
        await connection.copy_records_to_table("staged_events", records=rows)
        await connection.execute(insert)


async def _write_heads(connection: Connection, placements: Mapping[SessionKey, Placement]) -> None:
    rows = [
        (*key, h.partition, h.first_seq, h.first_offset, h.parent_session_id, h.seq, h.hash, h.snapshot_seq)
        for key, placement in placements.items()
        if placement.appended and (h := placement.head)
    ]
    if rows:
        await connection.execute(_SET_HEADS, *_columns(rows, 9))


async def _write_usage(connection: Connection, placements: Iterable[Placement]) -> None:
    rows = [
        (c.tenant_id, c.session_id, c.seq, u.tool, u.agent, u.ok, u.duration_ms, u.error, c.occurred_at)
        for placement in placements
        for c, _ in placement.appended
        if (u := c.usage)
    ]
    if rows:
        await connection.execute(_ADD_USAGE, *_columns(rows, 9))


async def _write_parked(
    connection: Connection, placements: Mapping[SessionKey, Placement], parked_before: Sequence[Candidate]
) -> None:
    rows = [
        (c.tenant_id, c.partition, c.offset, c.session_id, c.seq, c.event_id, reason, detail, c.body)
        for placement in placements.values()
        for c, reason, detail in placement.parked
    ]
    still = {row[:3] for row in rows}
    gone = [at for c in parked_before if (at := (c.tenant_id, c.partition, c.offset)) not in still]
    if gone:
        await connection.execute(_UNPARK, *_columns(gone, 3))
    if rows:
        await connection.execute(_PARK, *_columns(rows, 9))


async def _park_undecodable(connection: Connection, tenant_id: str, undecodable: Sequence[tuple[Record, str]]) -> None:
    rows = [
        (
            tenant_id,
            record.partition,
            record.offset,
            None,
            None,
            None,
            "undecodable",
            problem.replace("\0", "\\0"),
            record.value or b"",
        )
        for record, problem in undecodable
    ]
    if rows:
        await connection.execute(_PARK, *_columns(rows, 9))


def _columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows as one list per column, for unnest."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
