"""Takes the events of archived sessions out of the projection, and puts them back.

A session leaves in one transaction, under the fence of its partition, and only if it may at that moment. It comes back
in one transaction, if its events are those that left: the chain over them ends in the hash that its head remembers.
"""

import asyncio

import asyncpg
import structlog

from audit_consumer.placement import SessionPlacement
from audit_consumer.projection_rows import INSERT_EVENTS_CHECKING_JSON, LOCK_OFFSET, SessionKey, write_projected_events
from audit_consumer.records import StoredRecord, read_candidate
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.audit.proof import genesis_hash, next_chain_hash
from flotilla.contracts.errors import Refused, RetryLater, Undecodable
from flotilla.contracts.json_types import JsonObject
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, Pool

_EVENTS_PAGE_SIZE = 1000
_STATEMENT_TIMEOUT_S = 600
"""A session may have millions of events."""
_RECORD_WAIT_TIMEOUT_S = 60.0
_DUE = """
SELECT session_id, seq, hash FROM audit.archives
WHERE tenant_id = $1 AND request_id = $2 ORDER BY session_id
"""
_IS_RECORDED = "SELECT audit.is_archive_recorded($1, $2)"
_HEAD = "SELECT * FROM session_heads WHERE tenant_id = $1 AND session_id = $2 FOR UPDATE"
_MAY_ARCHIVE = "SELECT audit.may_archive($1, $2, $3)"
_NOTE_ARCHIVED = """
UPDATE audit.archives SET archived_at = now(), restored_at = NULL, offsets = ARRAY(
    SELECT e.kafka_offset FROM session_events AS e WHERE e.tenant_id = $1 AND e.session_id = $2 ORDER BY e.seq)
WHERE tenant_id = $1 AND session_id = $2 AND seq = $3
"""
_DELETE_EVENTS = "DELETE FROM session_events WHERE tenant_id = $1 AND session_id = $2"
_DELETE_SNAPSHOTS = "DELETE FROM snapshots WHERE tenant_id = $1 AND session_id = $2"
_LEAVE = """
UPDATE session_heads SET archived_seq = seq, archived_hash = hash, snapshot_seq = seq
WHERE tenant_id = $1 AND session_id = $2
"""
_ARCHIVE = "SELECT offsets FROM audit.archives WHERE tenant_id = $1 AND session_id = $2 AND seq = $3"
_RETURNED = """
SELECT seq, body FROM audit.returned_events
WHERE tenant_id = $1 AND session_id = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5
"""
_DELETE_RETURNED = "DELETE FROM audit.returned_events WHERE tenant_id = $1 AND session_id = $2"
_COME_BACK = """
UPDATE session_heads SET archived_seq = 0, archived_hash = NULL, snapshot_seq = first_seq - 1
WHERE tenant_id = $1 AND session_id = $2
"""
_NOTE_RESTORED = """
UPDATE audit.archives SET restored_at = now() WHERE tenant_id = $1 AND session_id = $2 AND seq = $3
"""
log = structlog.get_logger(__name__)


async def archive_sessions(pool: Pool, tenant_id: str, request_id: str) -> JsonObject:
    """Take the events of the request's sessions out; those that went on meanwhile, or are held, stay.

    Raises:
        RetryLater: the audit session does not say yet that they are archived: without that they would be missing.
    """
    await _wait_until_archives_recorded(pool, tenant_id, request_id)
    due = await pool.fetch(_DUE, tenant_id, request_id)
    archived, kept = 0, []
    for row in due:
        if await _remove_archived_events(pool, (tenant_id, row["session_id"]), row):
            archived += 1
        else:
            kept.append(row["session_id"])
    return {"archived": archived, "kept": kept}


async def _wait_until_archives_recorded(pool: Pool, tenant_id: str, request_id: str) -> None:
    deadline = asyncio.get_running_loop().time() + _RECORD_WAIT_TIMEOUT_S
    while not await pool.fetchval(_IS_RECORDED, tenant_id, request_id):
        if asyncio.get_running_loop().time() > deadline:
            raise RetryLater("the event that records it is not projected: is the relay running? Ask for it again")
        await asyncio.sleep(0.2)


async def _remove_archived_events(pool: Pool, session: SessionKey, row: asyncpg.Record) -> bool:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT_S}s'")
        await connection.fetchval(LOCK_OFFSET, lane_of_session(*session))
        head = await connection.fetchrow(_HEAD, *session)
        if head is None or (head["seq"], head["hash"]) != (row["seq"], row["hash"]):
            return False
        if head["archived_seq"] == row["seq"]:
            return True  # an earlier attempt did it
        if not await connection.fetchval(_MAY_ARCHIVE, *session, row["seq"]):
            return False
        await connection.execute(_NOTE_ARCHIVED, *session, row["seq"], timeout=_STATEMENT_TIMEOUT_S)
        await connection.execute(_DELETE_EVENTS, *session, timeout=_STATEMENT_TIMEOUT_S)
        await connection.execute(_DELETE_SNAPSHOTS, *session, timeout=_STATEMENT_TIMEOUT_S)
        await connection.execute(_LEAVE, *session)
    log.info("session_archived", tenant=session[0], session_id=session[1], seq=row["seq"])
    return True


async def restore_session(pool: Pool, session: SessionKey) -> JsonObject:
    """Put the events that were handed in back into their places.

    Raises:
        Refused, Undecodable: they are not those that left, or not all of them. They are deleted; nothing else was
            changed.
    """
    try:
        upto = await _restore_events(pool, session)
    except (Refused, Undecodable):
        await pool.execute(_DELETE_RETURNED, *session, timeout=_STATEMENT_TIMEOUT_S)
        raise
    await write_due_snapshots(pool, [session])
    log.info("session_restored", tenant=session[0], session_id=session[1], seq=upto)
    return {"restored": upto}


async def _restore_events(pool: Pool, session: SessionKey) -> int:
    """Put them back in one transaction, and return up to where."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = '{_STATEMENT_TIMEOUT_S}s'")
        await connection.fetchval(LOCK_OFFSET, lane_of_session(*session))
        head = await connection.fetchrow(_HEAD, *session)
        upto: int = head["archived_seq"] if head else 0
        if head is not None and upto:
            await _insert_returned_events(connection, session, head)
            await connection.execute(_DELETE_SNAPSHOTS, *session, timeout=_STATEMENT_TIMEOUT_S)
            await connection.execute(_COME_BACK, *session)
            await connection.execute(_NOTE_RESTORED, *session, upto)
        await connection.execute(_DELETE_RETURNED, *session, timeout=_STATEMENT_TIMEOUT_S)
    return upto


async def _insert_returned_events(connection: Connection, session: SessionKey, head: asyncpg.Record) -> None:
    offsets = await connection.fetchval(_ARCHIVE, *session, head["archived_seq"])
    seq = head["first_seq"] - 1
    chain_hash = genesis_hash(*session, head["parent_session_id"], seq)
    while rows := await connection.fetch(_RETURNED, *session, seq, head["archived_seq"], _EVENTS_PAGE_SIZE):
        placement = SessionPlacement(None)
        for row in rows:
            if row["seq"] != seq + 1:
                raise Refused(f"event {seq + 1} of session {session[1]} was not handed in")
            record = StoredRecord(head["kafka_partition"], offsets[row["seq"] - head["first_seq"]], row["body"])
            candidate = read_candidate(record)
            if (candidate.tenant_id, candidate.session_id, candidate.seq) != (*session, row["seq"]):
                raise Refused(f"what was handed in as event {row['seq']} of session {session[1]} is another one")
            seq, chain_hash = row["seq"], next_chain_hash(chain_hash, row["body"])
            placement.appended.append((candidate, chain_hash))
        await write_projected_events(connection, [placement], INSERT_EVENTS_CHECKING_JSON)
    if (seq, chain_hash) != (head["archived_seq"], head["archived_hash"]):
        raise Refused(
            f"what was handed in of session {session[1]} is not what was archived: the hash of event {seq} is "
            f"{chain_hash.hex()}, that of event {head['archived_seq']} was {head['archived_hash'].hex()}"
        )
