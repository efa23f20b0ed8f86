"""Archives of sessions that are over: what is asked of the audit consumer, which alone writes the projection.

A session is archived in this order: it is exported and verified where the file goes; the request that names the file
and its hash is recorded in the tenant's audit session; its events leave the projection. On the way back they are handed
in, and the audit consumer takes them if they are, hash by hash, those that left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flotilla.audit.admin_log import record_admin_changes
from flotilla.audit.requests import SOURCE, AuditRequest, insert_audit_request
from flotilla.contracts.errors import Conflict, NotFound
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Connection, Pool, tenant_transaction

MAX_SESSIONS_PER_ARCHIVE_REQUEST = 200
"""In one request, and so in one event of the audit session."""
_SELECT_ARCHIVABLE = "SELECT session_id, seq, hash, newest_at FROM audit.archivable_sessions($1, $2, $3, $4, NULL)"
_SELECT_ARCHIVABLE_OF_IDS = (
    "SELECT session_id, seq, hash, newest_at FROM audit.archivable_sessions($1, 'infinity', '', $2, $3)"
)
_INSERT_ARCHIVE = """
INSERT INTO audit.archives (tenant_id, session_id, seq, hash, newest_at, file, file_sha256, request_id, archived_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (tenant_id, session_id, seq) DO UPDATE SET file = excluded.file, file_sha256 = excluded.file_sha256,
    request_id = excluded.request_id, archived_by = excluded.archived_by, asked_at = now()
"""
_NOTE_RECORD = "UPDATE audit.archives SET recorded_seq = $3 WHERE tenant_id = $1 AND request_id = $2"
_LIST_ARCHIVES = """
SELECT session_id, seq, hash, newest_at, file, file_sha256, archived_by, asked_at, archived_at, restored_at,
    audit.archived_upto($1, session_id) = seq AS is_away
FROM audit.archives
WHERE tenant_id = $1 AND ($2::text IS NULL OR session_id = $2)
    AND ($3::timestamptz IS NULL OR (asked_at, session_id) < ($3, $4))
ORDER BY asked_at DESC, session_id DESC LIMIT $5
"""
# Nothing of a session that the caller may not see.
_SELECT_ARCHIVED_UPTO = """
SELECT audit.archived_upto(tenant_id, session_id) FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2
"""
_INSERT_RETURNED_EVENTS = """
INSERT INTO audit.returned_events (tenant_id, session_id, seq, body)
SELECT $1, $2, e.seq, e.body FROM unnest($3::bigint[], $4::bytea[]) AS e (seq, body)
ON CONFLICT (tenant_id, session_id, seq) DO UPDATE SET body = excluded.body, returned_at = now()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivableSession:
    """A session whose events may go into an archive."""

    session_id: str
    seq: int
    """Its newest event."""
    hash: str
    newest_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedSession:
    """A session that was written to an archive."""

    session_id: str
    seq: int
    """Its newest event in the file."""
    hash: str
    newest_at: datetime
    file: str
    """Where who archived it wrote it."""
    file_sha256: str
    archived_by: str
    asked_at: datetime
    archived_at: datetime | None
    """When its events left the projection."""
    restored_at: datetime | None
    is_away: bool
    """Whether its events are only in the file, and in Kafka."""


async def list_archivable_sessions(
    pool: Pool, tenant_id: str, before: datetime, after: str, limit: int
) -> list[ArchivableSession]:
    """The tenant's sessions, by id behind `after`, that are over, signed, and hold nothing newer than `before`."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_SELECT_ARCHIVABLE, tenant_id, before, after, limit)
    return [ArchivableSession(**{**dict(row), "hash": row["hash"].hex()}) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """A file with the exports of some sessions."""

    place: str
    """Where it is, for people."""
    sha256: bytes
    sessions: Mapping[str, int]
    """By session, its newest event in the file."""


async def request_archive(connection: Connection, tenant_id: str, file: ArchiveFile, requested_by: str) -> AuditRequest:
    """Ask that the events of the file's sessions leave the projection.

    In the caller's transaction, which also records it.

    Raises:
        Conflict: one of them can't be archived, or has another event by now.
    """
    sessions = file.sessions
    found = await connection.fetch(_SELECT_ARCHIVABLE_OF_IDS, tenant_id, len(sessions), list(sessions))
    rows = {row["session_id"]: row for row in found}
    if wrong := [name for name, seq in sessions.items() if name not in rows or rows[name]["seq"] != seq]:
        raise Conflict(
            f"session {wrong[0]} can't be archived up to event {sessions[wrong[0]]}: it went on, is open, held, or "
            "archived already. Nothing was changed: list again what can be archived"
        )
    request = await insert_audit_request(connection, tenant_id, "archive", requested_by)
    for name, row in rows.items():
        place = (file.place, file.sha256, request.request_id, requested_by)
        await connection.execute(_INSERT_ARCHIVE, tenant_id, name, row["seq"], row["hash"], row["newest_at"], *place)
    details: JsonObject = {
        "request_id": request.request_id,
        "by": requested_by,
        "file": file.place,
        "file_sha256": file.sha256.hex(),
        "sessions": [
            {"session_id": name, "seq": row["seq"], "hash": row["hash"].hex()} for name, row in sorted(rows.items())
        ],
    }
    recorded = await record_admin_changes(connection, tenant_id, SOURCE, ("audit_archive_made", details))
    await connection.execute(_NOTE_RECORD, tenant_id, request.request_id, recorded.first_seq)
    return request


async def list_archives(
    pool: Pool, tenant_id: str, session_id: str | None, before: tuple[datetime | None, str | None], limit: int
) -> list[ArchivedSession]:
    """What was archived, newest first; of one session, or of all."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_LIST_ARCHIVES, tenant_id, session_id, *before, limit)
    return [
        ArchivedSession(**{**dict(row), "hash": row["hash"].hex(), "file_sha256": row["file_sha256"].hex()})
        for row in rows
    ]


async def hand_in_archived_events(
    connection: Connection, tenant_id: str, session_id: str, events: Sequence[tuple[int, str]]
) -> None:
    """Hand in events of an archived session, each with its number and its document as it was recorded. Repeating it
    changes nothing.

    Raises:
        NotFound: the session has no archived events, or not these.
    """
    upto = await _load_archived_upto(connection, tenant_id, session_id)
    if any(not 0 < seq <= upto for seq, _ in events):
        raise NotFound(f"of session {session_id} events 1 to {upto} are archived, and no others")
    seqs, bodies = [seq for seq, _ in events], [body.encode() for _, body in events]
    await connection.execute(_INSERT_RETURNED_EVENTS, tenant_id, session_id, seqs, bodies)


async def request_restore(connection: Connection, tenant_id: str, session_id: str, requested_by: str) -> AuditRequest:
    """Ask that the events that were handed in take their places again, in the caller's transaction.

    Raises:
        NotFound: the session has no archived events.
    """
    upto = await _load_archived_upto(connection, tenant_id, session_id)
    request = await insert_audit_request(connection, tenant_id, "restore", requested_by, session_id=session_id)
    details: JsonObject = {
        "request_id": request.request_id,
        "by": requested_by,
        "session_id": session_id,
        "upto_seq": upto,
    }
    await record_admin_changes(connection, tenant_id, SOURCE, ("audit_archive_restored", details))
    return request


async def _load_archived_upto(connection: Connection, tenant_id: str, session_id: str) -> int:
    upto: int | None = await connection.fetchval(_SELECT_ARCHIVED_UPTO, tenant_id, session_id)
    if not upto:
        raise NotFound(f"nothing of session {session_id} is archived")
    return upto
