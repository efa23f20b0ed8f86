"""The projection's rows: the statements that read and write them, for several sessions at once."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from audit_consumer.placement import ChainHead, KnownEvent, SessionPlacement
from audit_consumer.records import EventCandidate, KafkaRecord, StoredRecord, read_candidate, read_event_id
from flotilla.audit.event_copy import sql_without_ciphertext
from flotilla.contracts.errors import Conflict
from flotilla.kafka.session_log import hash_kafka_record
from flotilla.postgres import Connection

SET_ASIDE_DETAIL_PREFIX = "set aside"
"""How the detail of events begins that gave way to another history; others were discarded one by one."""

SessionKey: TypeAlias = tuple[str, str]

# The fence: as many rows as partitions, or somebody else moved on from here.
_MOVE_OFFSETS = """
UPDATE consumer_offsets AS o
SET next_offset = m.upto, last_record = m.last_record, last_event_id = m.last_event_id, updated_at = now()
FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bytea[], $5::uuid[])
    AS m (kafka_partition, read_from, upto, last_record, last_event_id)
WHERE o.kafka_partition = m.kafka_partition AND o.next_offset = m.read_from
"""
# The same fence for work that reads no records.
LOCK_OFFSET = "SELECT next_offset FROM consumer_offsets WHERE kafka_partition = $1 FOR UPDATE"
_SELECT_HEADS = """
SELECT h.* FROM unnest($1::text[], $2::text[]) AS s (tenant_id, session_id)
JOIN session_heads AS h USING (tenant_id, session_id)
"""
# What waits for these sessions, and what a person set aside.
_SELECT_PARKED = """
SELECT p.* FROM unnest($1::text[], $2::text[]) AS s (tenant_id, session_id)
JOIN parked_events AS p USING (tenant_id, session_id) WHERE p.reason <> 'undecodable' ORDER BY p.kafka_offset
"""
_SELECT_STORED_EVENTS = """
SELECT e.tenant_id, e.session_id, e.seq, e.event_id, e.body
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (tenant_id, session_id, seq)
JOIN session_events AS e USING (tenant_id, session_id, seq)
"""
_EVENT_COLUMNS = """tenant_id, session_id, seq, event_id, type, occurred_at, run_id, task_id, rolled_back_to,
    traceparent, kafka_partition, kafka_offset, hash, body"""
# Not by COPY, which PostgreSQL has not for a table under row level security.
_EVENTS_UNNEST = f"""
unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::timestamptz[], $7::text[], $8::text[],
    $9::bigint[], $10::text[], $11::integer[], $12::bigint[], $13::bytea[], $14::bytea[]) AS e ({_EVENT_COLUMNS})
"""
# The copy for queries is without ciphertext: with it twice, rows would need TOAST. OFFSET 0: each is read once.
_INSERT_TEMPLATE = """
INSERT INTO session_events ({columns}, event)
SELECT {columns}, {copy} FROM (SELECT e.*, {read} AS document FROM {events} OFFSET 0) AS e
"""
_BODY_AS_JSON = "convert_from(body, 'UTF8')::jsonb"
_INSERT_WORDS = {"columns": _EVENT_COLUMNS, "events": _EVENTS_UNNEST, "copy": sql_without_ciphertext("document")}
INSERT_EVENTS = _INSERT_TEMPLATE.format(read=_BODY_AS_JSON, **_INSERT_WORDS)
# For batches with JSON that jsonb can't hold; checks each document, so it is slower.
INSERT_EVENTS_CHECKING_JSON = _INSERT_TEMPLATE.format(
    read=f"CASE WHEN pg_input_is_valid(convert_from(body, 'UTF8'), 'jsonb') THEN {_BODY_AS_JSON} END", **_INSERT_WORDS
)
_SET_HEADS = """
INSERT INTO session_heads AS h (tenant_id, session_id, kafka_partition, first_seq, first_offset, parent_session_id, seq,
    hash, snapshot_seq)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
    $8::bytea[], $9::bigint[])
ON CONFLICT (tenant_id, session_id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, dirty = true
"""
_INSERT_TOOL_USAGE = """
INSERT INTO tool_usage (tenant_id, session_id, seq, tool, agent, ok, duration_ms, error, occurred_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::boolean[],
    $7::double precision[], $8::text[], $9::timestamptz[])
"""
_DELETE_PARKED = """
DELETE FROM parked_events AS p USING unnest($1::text[], $2::integer[], $3::bigint[]) AS g (tenant_id, part, offs)
WHERE p.tenant_id = g.tenant_id AND p.kafka_partition = g.part AND p.kafka_offset = g.offs
"""
_INSERT_PARKED = """
INSERT INTO parked_events AS p (tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail,
    body)
SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[], $6::uuid[], $7::text[],
    $8::text[], $9::bytea[])
ON CONFLICT (tenant_id, kafka_partition, kafka_offset) DO UPDATE SET reason = excluded.reason, detail = excluded.detail
WHERE p.reason <> 'discarded' OR p.body <> excluded.body
"""


class PartitionTakenOver(Conflict):
    """Another consumer owns a partition of this batch; nothing was written."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Neighbouring records of one partition, read from `read_from` on."""

    partition: int
    read_from: int
    records: Sequence[KafkaRecord]

    @property
    def next_offset(self) -> int:
        """Where the next batch begins."""
        return self.records[-1].offset + 1

    @property
    def last_record_hash(self) -> bytes:
        """What the newest record is known by."""
        return hash_kafka_record(self.records[-1].key, self.records[-1].value)


@dataclass(slots=True)
class ParkedRecords:
    """What the database holds against a session."""

    parked: list[tuple[EventCandidate, str]] = field(default_factory=list)
    discarded: list[KnownEvent] = field(default_factory=list)
    released: list[EventCandidate] = field(default_factory=list)
    """Forbidden events that a person looked at: they keep their place in the chain, as evidence, and steer nothing."""


NO_PARKED_RECORDS = ParkedRecords()
"""Of a session that has nothing parked."""


async def advance_offsets(connection: Connection, batches: Sequence[RecordBatch]) -> None:
    """Move the offsets of the batches' partitions from where each was read.

    Raises:
        Fenced: one is not there any more.
    """
    status = await connection.execute(
        _MOVE_OFFSETS,
        [batch.partition for batch in batches],
        [batch.read_from for batch in batches],
        [batch.next_offset for batch in batches],
        [batch.last_record_hash for batch in batches],
        [read_event_id(batch.records[-1]) for batch in batches],
    )
    if status != f"UPDATE {len(batches)}":
        raise PartitionTakenOver(
            f"partitions {[batch.partition for batch in batches]}: another consumer moved on ({status})"
        )


async def load_session_heads(connection: Connection, keys: Iterable[SessionKey]) -> dict[SessionKey, ChainHead]:
    """Return the newest event of each session that has one."""
    rows = await connection.fetch(_SELECT_HEADS, *_rows_to_columns(keys, 2))
    return {
        (row["tenant_id"], row["session_id"]): ChainHead(
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


async def load_parked_records(
    connection: Connection, keys: Iterable[SessionKey], heads: Mapping[SessionKey, ChainHead]
) -> dict[SessionKey, ParkedRecords]:
    """Return what is parked of each session, or was set aside."""
    waiting: dict[SessionKey, ParkedRecords] = defaultdict(ParkedRecords)
    for row in await connection.fetch(_SELECT_PARKED, *_rows_to_columns(keys, 2)):
        key = (row["tenant_id"], row["session_id"])
        candidate = read_candidate(StoredRecord(row["kafka_partition"], row["kafka_offset"], row["body"]))
        if row["reason"] != "discarded":
            waiting[key].parked.append((candidate, row["reason"]))
            continue
        waiting[key].discarded.append(KnownEvent(row["event_id"], row["body"]))
        head = heads.get(key)
        is_ahead = head is None or candidate.seq > head.seq
        if candidate.forbidden is not None and is_ahead and not row["detail"].startswith(SET_ASIDE_DETAIL_PREFIX):
            waiting[key].released.append(replace(candidate, forbidden=None))
    return waiting


async def load_repeated_events(
    connection: Connection,
    arriving: Mapping[SessionKey, Sequence[EventCandidate]],
    heads: Mapping[SessionKey, ChainHead],
    waiting: Mapping[SessionKey, ParkedRecords],
) -> dict[SessionKey, dict[int, KnownEvent]]:
    """The projected events whose seq comes again. Mostly none, and then the database is not asked."""
    repeated = [
        (*key, candidate.seq)
        for key, candidates in arriving.items()
        if (head := heads.get(key)) is not None
        for candidate in [*candidates, *(c for c, _ in waiting.get(key, NO_PARKED_RECORDS).parked)]
        if candidate.seq <= head.seq
    ]
    stored: dict[SessionKey, dict[int, KnownEvent]] = defaultdict(dict)
    if repeated:
        for row in await connection.fetch(_SELECT_STORED_EVENTS, *_rows_to_columns(repeated, 3)):
            stored[row["tenant_id"], row["session_id"]][row["seq"]] = KnownEvent(row["event_id"], row["body"])
    return stored


async def write_projected_events(connection: Connection, placements: Iterable[SessionPlacement], insert: str) -> None:
    """Write the appended events by `INSERT` or `INSERT_EVENTS_CHECKING_JSON`."""
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
        await connection.execute(insert, *_rows_to_columns(rows, 14))


async def write_session_heads(connection: Connection, placements: Mapping[SessionKey, SessionPlacement]) -> None:
    """Write the newest event of each session that got any."""
    rows = [
        (*key, h.partition, h.first_seq, h.first_offset, h.parent_session_id, h.seq, h.hash, h.snapshot_seq)
        for key, placement in placements.items()
        if placement.appended and (h := placement.head)
    ]
    if rows:
        await connection.execute(_SET_HEADS, *_rows_to_columns(rows, 9))


async def write_tool_usage(connection: Connection, placements: Iterable[SessionPlacement]) -> None:
    """Write what the appended events say about the use of tools."""
    rows = [
        (c.tenant_id, c.session_id, c.seq, u.tool, u.agent, u.ok, u.duration_ms, u.error, c.occurred_at)
        for placement in placements
        for c, _ in placement.appended
        if (u := c.usage)
    ]
    if rows:
        await connection.execute(_INSERT_TOOL_USAGE, *_rows_to_columns(rows, 9))


async def write_parked_records(
    connection: Connection, placements: Mapping[SessionKey, SessionPlacement], parked_before: Sequence[EventCandidate]
) -> None:
    """Park what has to wait, and release what waits no longer."""
    rows = [
        (c.tenant_id, c.partition, c.offset, c.session_id, c.seq, c.event_id, reason, detail, c.body)
        for placement in placements.values()
        for c, reason, detail in placement.parked
    ]
    still = {row[:3] for row in rows}
    gone = [at for c in parked_before if (at := (c.tenant_id, c.partition, c.offset)) not in still]
    if gone:
        await connection.execute(_DELETE_PARKED, *_rows_to_columns(gone, 3))
    if rows:
        await connection.execute(_INSERT_PARKED, *_rows_to_columns(rows, 9))


async def park_undecodable_records(
    connection: Connection, tenant_id: str, undecodable: Sequence[tuple[KafkaRecord, str]]
) -> None:
    """Park records that hold no event, for the operator\'s tenant `tenant_id`."""
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
        await connection.execute(_INSERT_PARKED, *_rows_to_columns(rows, 9))


def _rows_to_columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows as one list per column, for unnest."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
