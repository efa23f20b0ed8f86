"""Writes snapshots of long sessions: one for each full stretch of events, cut at rollbacks.

Not of events with encrypted data: the audit consumer has no keys. They are folded when somebody asks.
"""

from collections.abc import Iterable, Iterator, Sequence

import asyncpg

from audit_consumer.projection_rows import SessionKey
from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.encryption import holds_sealed
from flotilla.eventstore.snapshots import EVENTS_PER_SNAPSHOT, Snapshot, make_snapshot
from flotilla.postgres import Connection, Pool

# The holder of this row moves the session's snapshots on.
_LOCK_SESSION_HEAD = "SELECT seq, snapshot_seq FROM session_heads WHERE tenant_id = $1 AND session_id = $2 FOR UPDATE"
_SELECT_EVENTS = """
SELECT seq, body, rolled_back_to FROM session_events
WHERE tenant_id = $1 AND session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq
"""
_INSERT_SNAPSHOT = """
INSERT INTO snapshots (tenant_id, session_id, first_seq, seq, earliest, summary, counts, messages, tool_calls,
    tool_results, errors)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
"""
_ADVANCE_SNAPSHOT_SEQ = "UPDATE session_heads SET snapshot_seq = $3 WHERE tenant_id = $1 AND session_id = $2"


async def write_due_snapshots(pool: Pool, keys: Iterable[SessionKey]) -> None:
    """Snapshots each session as far as it has whole stretches of events. Repeating it adds nothing."""
    for key in keys:
        while await _write_next_snapshot(pool, key):
            pass


async def _write_next_snapshot(pool: Pool, key: SessionKey) -> bool:
    async with pool.acquire() as connection, connection.transaction():
        head = await connection.fetchrow(_LOCK_SESSION_HEAD, *key)
        if head is None or head["seq"] - head["snapshot_seq"] < EVENTS_PER_SNAPSHOT:
            return False
        upto = head["snapshot_seq"] + EVENTS_PER_SNAPSHOT
        rows = await connection.fetch(_SELECT_EVENTS, *key, head["snapshot_seq"], upto)
        for stretch in _split_at_rollbacks(rows):
            if not any(holds_sealed(event.data) for event in stretch):
                await _insert_snapshot(connection, key, make_snapshot(stretch))
        await connection.execute(_ADVANCE_SNAPSHOT_SEQ, *key, upto)
    return True


async def _insert_snapshot(connection: Connection, key: SessionKey, snapshot: Snapshot) -> None:
    s = snapshot
    lists = (s.messages, s.tool_calls, s.tool_results, s.errors)
    await connection.execute(_INSERT_SNAPSHOT, *key, s.first_seq, s.seq, s.earliest, s.summary, list(s.counts), *lists)


def _split_at_rollbacks(rows: Sequence[asyncpg.Record]) -> Iterator[list[AgentEvent]]:
    """Neighbouring events; rollbacks end a stretch and belong to none."""
    stretch: list[AgentEvent] = []
    for row in rows:
        if row["rolled_back_to"] is None:
            stretch.append(decode_event(row["body"]))
        elif stretch:
            yield stretch
            stretch = []
    if stretch:
        yield stretch
