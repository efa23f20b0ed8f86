"""Snapshots of stretches with encrypted events, encrypted with their session's key, and gone with it.

The audit consumer has no keys, so the first reader who folds a long session leaves them for the next one. They are
bound to the chain's hash at their end: a session whose history was decided otherwise has none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

import asyncpg
import msgspec

from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import RetryLater
from flotilla.encryption import DataKey, Unreadable
from flotilla.eventstore.log import LineageSegment
from flotilla.eventstore.path import SeqRange
from flotilla.eventstore.snapshots import EVENTS_PER_SNAPSHOT, Snapshot, make_snapshot
from flotilla.eventstore.state import rollback_target_seq
from flotilla.postgres import Connection, keyring_of, reading_ciphers

# Those whose end is what the projection has there.
_SELECT_KNOWN_SNAPSHOTS = """
SELECT s.session_id, s.first_seq, s.seq, s.earliest
FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS l (session_id, after_seq, upto_seq)
JOIN flotilla.sealed_snapshots AS s ON s.tenant_id = $1 AND s.session_id = l.session_id
    AND s.first_seq > l.after_seq AND s.seq <= l.upto_seq
JOIN audit.session_events AS e ON e.tenant_id = $1 AND e.session_id = s.session_id AND e.seq = s.seq AND e.hash = s.hash
"""
_SELECT_SNAPSHOTS = """
SELECT s.session_id, s.first_seq, s.seq, s.hash, s.body FROM unnest($2::text[], $3::bigint[]) AS w (session_id, seq)
JOIN flotilla.sealed_snapshots AS s ON s.tenant_id = $1 AND s.session_id = w.session_id AND s.seq = w.seq
"""
_SELECT_EVENT_HASHES = """
SELECT e.session_id, e.seq, e.event_id, e.hash FROM unnest($2::text[], $3::bigint[]) AS w (session_id, seq)
JOIN audit.session_events AS e ON e.tenant_id = $1 AND e.session_id = w.session_id AND e.seq = w.seq
"""
_INSERT_SNAPSHOT = """
INSERT INTO flotilla.sealed_snapshots (tenant_id, session_id, first_seq, seq, earliest, hash, body)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, session_id, seq) DO UPDATE
SET first_seq = excluded.first_seq, earliest = excluded.earliest, hash = excluded.hash, body = excluded.body
WHERE sealed_snapshots.hash <> excluded.hash
"""
_DELETE_SNAPSHOT = "DELETE FROM flotilla.sealed_snapshots WHERE tenant_id = $1 AND session_id = $2 AND seq = $3"
_decode_snapshot = msgspec.msgpack.Decoder(Snapshot).decode


async def find_sealed_snapshots(
    connection: Connection, tenant_id: str, segments: Sequence[LineageSegment], upto_seq: int
) -> list[asyncpg.Record]:
    """Where there are snapshots of a lineage up to `upto_seq`, of sessions whose key is there: session, first and last
    seq, earliest time."""
    if keyring_of(connection) is None:
        return []
    rows = await connection.fetch(
        _SELECT_KNOWN_SNAPSHOTS,
        tenant_id,
        [segment.session_id for segment in segments],
        [segment.after_seq for segment in segments],
        [min(segment.upto_seq, upto_seq) for segment in segments],
    )
    keys = await _load_session_keys(connection, tenant_id, {row["session_id"] for row in rows})
    return [row for row in rows if row["session_id"] in keys]


async def load_sealed_snapshots(
    connection: Connection, tenant_id: str, wanted: Sequence[tuple[str, int]]
) -> list[Snapshot]:
    """The snapshots of these sessions that end there.

    Raises:
        RetryLater: one was changed, or its key is gone; it is not there any more.
    """
    rows = await connection.fetch(
        _SELECT_SNAPSHOTS, tenant_id, [name for name, _ in wanted], [seq for _, seq in wanted]
    )
    keys = await _load_session_keys(connection, tenant_id, {row["session_id"] for row in rows})
    snapshots = []
    for row in rows:
        key = keys.get(row["session_id"])
        try:
            snapshots.append(_decode_snapshot(_decrypt_snapshot(key, row)))
        except (Unreadable, msgspec.MsgspecError) as error:
            raise SnapshotUnreadable(row["session_id"], row["seq"]) from error
    return snapshots


class SnapshotUnreadable(RetryLater):
    """A snapshot that can't be opened: it is deleted, and the events are folded instead."""

    def __init__(self, session_id: str, seq: int) -> None:
        super().__init__(f"the snapshot of session {session_id} at {seq} can't be read: ask again")
        self.session_id = session_id
        self.seq = seq


async def delete_sealed_snapshot(connection: Connection, tenant_id: str, unreadable: SnapshotUnreadable) -> None:
    """Delete a snapshot that can't be opened."""
    await connection.execute(_DELETE_SNAPSHOT, tenant_id, unreadable.session_id, unreadable.seq)


async def store_sealed_snapshots(
    connection: Connection,
    tenant_id: str,
    segments: Sequence[LineageSegment],
    known: Sequence[SeqRange],
    events: Mapping[int, AgentEvent],
) -> None:
    """Leave a snapshot of each whole stretch of `events` that is projected, and has none, of sessions with a key."""
    stretches = [stretch for segment in segments for stretch in _whole_stretches(segment, known, events)]
    if not stretches:
        return
    keys = await _load_session_keys(connection, tenant_id, {name for name, _ in stretches})
    due = [(name, stretch) for name, stretch in stretches if name in keys]
    ends = [stretch[-1].sequence or 0 for _, stretch in due]
    rows = await connection.fetch(_SELECT_EVENT_HASHES, tenant_id, [name for name, _ in due], ends)
    hashes = {(row["session_id"], row["event_id"]): row["hash"] for row in rows}
    for name, stretch in due:
        # The history may have been decided otherwise since it was read: the hash is then that of another event.
        if (end := hashes.get((name, UUID(stretch[-1].id)))) is not None:
            snapshot = make_snapshot(stretch)
            sealed = keys[name].seal(
                msgspec.msgpack.encode(snapshot), _snapshot_encryption_place(snapshot.first_seq, snapshot.seq, end)
            )
            place = (name, snapshot.first_seq, snapshot.seq, snapshot.earliest)
            await connection.execute(_INSERT_SNAPSHOT, tenant_id, *place, end, sealed)


def _whole_stretches(
    segment: LineageSegment, known: Sequence[SeqRange], events: Mapping[int, AgentEvent]
) -> Iterator[tuple[str, list[AgentEvent]]]:
    """Stretches of the segment without a snapshot, as long as one takes, cut at rollbacks."""
    for after_seq in range(segment.after_seq, segment.upto_seq - EVENTS_PER_SNAPSHOT + 1, EVENTS_PER_SNAPSHOT):
        upto_seq = after_seq + EVENTS_PER_SNAPSHOT
        if any(one.after_seq < upto_seq and one.upto_seq > after_seq for one in known):
            continue
        found = [events[seq] for seq in range(after_seq + 1, upto_seq + 1) if seq in events]
        if len(found) == EVENTS_PER_SNAPSHOT:
            for stretch in _split_at_rollbacks(found):
                yield segment.session_id, stretch


def _split_at_rollbacks(events: Iterable[AgentEvent]) -> Iterator[list[AgentEvent]]:
    stretch: list[AgentEvent] = []
    for event in events:
        if rollback_target_seq(event) is None:
            stretch.append(event)
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


async def _load_session_keys(connection: Connection, tenant_id: str, session_ids: Iterable[str]) -> dict[str, DataKey]:
    """The keys of those sessions that have one, and have it still."""
    names = sorted(session_ids)
    ciphers = await reading_ciphers(connection, tenant_id, names) if names else {}
    return {name: cipher.key for name, cipher in ciphers.items() if cipher is not None and cipher.key is not None}


def _decrypt_snapshot(key: DataKey | None, row: asyncpg.Record) -> bytes:
    if key is None:
        raise Unreadable(f"session {row['session_id']} has no key")
    return key.open(row["body"], _snapshot_encryption_place(row["first_seq"], row["seq"], row["hash"]))


def _snapshot_encryption_place(first_seq: int, seq: int, end: bytes) -> str:
    return f"sealed_snapshots/{first_seq}-{seq}/{end.hex()}"
