"""Sessions: opened, forked, rolled back. Each function is one step of the caller's tenant transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.errors import (
    Conflict,
    Forbidden,
    Invalid,
    RunInProgress,
    SessionArchived,
    SessionErased,
    no_such,
)
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import AUDIT_SESSION, is_valid_id
from flotilla.contracts.requests import ACTIVE_RUN_STATUSES, RAGRequest, WorkflowRequest
from flotilla.contracts.session_events import FORKED, ROLLED_BACK, ForkedFrom, RolledBackTo
from flotilla.outbox import AppendedRange, append
from flotilla.postgres import Connection

Visibility: TypeAlias = Literal["private", "tenant"]
SessionKind: TypeAlias = Literal["conversation", "replay"]
"""A replay holds one recorded run that was done again, and takes no other."""
_SESSION_COLUMNS = (
    "session_id, user_id, acted_by, head_seq, parent_session_id, forked_at_seq, metadata, created_at, kind"
)
# Nothing happens where the session exists.
_INSERT_SESSION = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq, parent_session_id, forked_at_seq, metadata,
    owner, visibility, readers, writers, kind)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, $11, $12)
ON CONFLICT (tenant_id, session_id) DO NOTHING
RETURNING 1
"""
_GET_SESSION = f"SELECT {_SESSION_COLUMNS} FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2"  # noqa: S608 - a constant
# A new run's foreign key needs a share of this lock, so none starts until the caller commits.
_LOCK_SESSION = f"{_GET_SESSION} FOR UPDATE"
_SELECT_IS_WRITABLE = """
SELECT flotilla_ops.sees_all() OR flotilla_ops.has_access(visibility, owner, writers, flotilla_ops.viewer_names())
FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2
"""
_SELECT_SESSION_KIND = """
SELECT kind, flotilla.is_erased_session($1, $2) AS is_erased, audit.archived_upto($1, $2) AS archived_upto
FROM flotilla.sessions
WHERE tenant_id = $1 AND session_id = $2
"""
# Else a fork and its parent's archive could both be committed.
_KEPT_FROM_ARCHIVES = "SELECT audit.kept_from_archives($1, $2)"
_SELECT_ACCESS = (
    "SELECT owner, visibility, readers, writers FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2"
)
_UPDATE_ACCESS = """
UPDATE flotilla.sessions SET owner = $3, visibility = $4, readers = $5, writers = $6
WHERE tenant_id = $1 AND session_id = $2
"""
_SELECT_ACTIVE_RUN = "SELECT run_id FROM flotilla.runs WHERE tenant_id = $1 AND session_id = $2 AND status = ANY($3)"
# For those who read a session's turns without its events (`flotilla.eventstore.turns`).
_INSERT_ROLLBACK = """
INSERT INTO flotilla.session_rollbacks (tenant_id, session_id, seq, to_seq) VALUES ($1, $2, $3, $4)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session, as `GET /v1/sessions/{s}` shows it."""

    session_id: str
    user_id: str
    acted_by: str | None
    """The service that opened it on the user's behalf."""
    head_seq: int
    parent_session_id: str | None
    forked_at_seq: int | None
    created_at: datetime
    metadata: JsonObject
    kind: SessionKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAccess:
    """Who may read and write a session: identities and groups, as `flotilla.contracts.identity` writes them."""

    owner: str | None = None
    """Also changes who may; None only where the whole tenant may."""
    visibility: Visibility = "tenant"
    """`tenant`: everybody in the tenant reads and writes."""
    readers: Sequence[str] = ()
    writers: Sequence[str] = ()
    """Read, too."""


ACCESS_FOR_TENANT = SessionAccess()


async def open_session(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    user_id: str,
    metadata: JsonObject | None = None,
    *,
    access: SessionAccess = ACCESS_FOR_TENANT,
) -> tuple[Session, bool]:
    """The session, and whether this call made it.

    Raises:
        Invalid: `session_id` is not 1 to 128 of `A-Z a-z 0-9 . _ : -`.
        NotFound: it exists, and the transaction's viewer may not see it.
    """
    _check_session_id(session_id)
    created = await insert_session_if_new(connection, tenant_id, session_id, user_id, access, metadata=metadata)
    return await get_session(connection, tenant_id, session_id), created


async def ensure_session(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    user_id: str,
    access: SessionAccess = ACCESS_FOR_TENANT,
    *,
    kind: SessionKind = "conversation",
) -> None:
    """Open the session with `access` if it is new; an existing one stays as it is, with its owner.

    Raises:
        NotFound: it exists, and the transaction's viewer may not see it.
        Forbidden: the viewer may only read it.
        Conflict: it exists, and it is, or is to be, a replay.
        SessionErased: it exists, and its person was erased.
        SessionArchived: it exists, and its events are in an archive.
    """
    if not await insert_session_if_new(connection, tenant_id, session_id, user_id, access, kind=kind):
        await check_may_write_session(connection, tenant_id, session_id)
        row = await connection.fetchrow(_SELECT_SESSION_KIND, tenant_id, session_id)
        if row is not None and row["is_erased"]:
            raise SessionErased(f"session {session_id} was erased, so nothing new begins in it: use another session")
        if row is not None and row["archived_upto"]:
            raise session_archived_error(session_id, row["archived_upto"])
        if "replay" in (kind, row and row["kind"]):
            raise Conflict(f"session {session_id} is a replay of a recorded run: use another session, or fork it")


def session_archived_error(session_id: str, upto_seq: int) -> SessionArchived:
    """Return the error for who needs the session's archived events."""
    return SessionArchived(
        f"events 1 to {upto_seq} of session {session_id} are in an archive: flotilla audit archives shows the file, "
        "flotilla audit restore brings them back"
    )


async def insert_session_if_new(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    user_id: str,
    access: SessionAccess,
    *,
    metadata: JsonObject | None = None,
    fork_of: tuple[str, int] | None = None,
    kind: SessionKind = "conversation",
) -> bool:
    """Add the session unless there is one of that id; return whether it was added. `fork_of`: the parent, and the last
    event that both share."""
    parent_session_id, at_seq = fork_of or (None, None)
    body = to_json(metadata or {}).decode()
    who = (access.owner, access.visibility, list(access.readers), list(access.writers))
    added = await connection.fetchval(
        _INSERT_SESSION, tenant_id, session_id, user_id, at_seq or 0, parent_session_id, at_seq, body, *who, kind
    )
    return added is not None


def session_kind_of_request(request: RAGRequest | WorkflowRequest) -> SessionKind:
    """Return what kind of session the run belongs into."""
    return "replay" if isinstance(request, RAGRequest) and request.replay else "conversation"


async def check_may_write_session(connection: Connection, tenant_id: str, session_id: str) -> None:
    """Return if the transaction's viewer may write to the session.

    Raises:
        NotFound: the viewer may not see it.
        Forbidden: the viewer may only read it.
    """
    writable = await connection.fetchval(_SELECT_IS_WRITABLE, tenant_id, session_id)
    if writable is None:
        raise no_such("session", session_id)
    if not writable:
        raise Forbidden(f"session {session_id}: you may read it, not write to it; ask its owner to share it with you")


async def load_access_of_session(
    connection: Connection, tenant_id: str, session_id: str, *, lock: bool = False
) -> SessionAccess:
    """Who may read and write the session; with `lock`, nobody changes it before the caller's transaction ends.

    Raises:
        NotFound: the transaction's viewer may not see it.
    """
    row = await connection.fetchrow(f"{_SELECT_ACCESS} FOR UPDATE" if lock else _SELECT_ACCESS, tenant_id, session_id)
    if row is None:
        raise no_such("session", session_id)
    return SessionAccess(**dict(row))


async def set_session_access(connection: Connection, tenant_id: str, session_id: str, access: SessionAccess) -> None:
    """Say who may read and write the session from now on.

    Raises:
        Invalid: the session is reserved.
    """
    _check_session_id_not_reserved(session_id)
    who = (access.owner, access.visibility, list(access.readers), list(access.writers))
    await connection.execute(_UPDATE_ACCESS, tenant_id, session_id, *who)


async def get_session(connection: Connection, tenant_id: str, session_id: str, *, lock: bool = False) -> Session:
    """The session; with `lock`, nobody appends to it or starts a run in it before the caller's transaction ends.

    Raises:
        NotFound: the tenant has no such session.
    """
    row = await connection.fetchrow(_LOCK_SESSION if lock else _GET_SESSION, tenant_id, session_id)
    if row is None:
        raise no_such("session", session_id)
    return Session(**{**dict(row), "metadata": json.loads(row["metadata"])})


async def fork_session(
    connection: Connection,
    tenant_id: str,
    parent_session_id: str,
    at_seq: int,
    *,
    new_session_id: str | None,
    user_id: str | None,
    source: str,
    owner: str | None = None,
    by: JsonObject | None = None,
) -> tuple[Session, AppendedRange]:
    """Opens a session whose history is the parent's up to `at_seq`; the parent is not touched.

    With `owner` the fork is theirs, and those who may read and write the parent may read and write the fork. `by` is
    who asks, for the event.

    Raises:
        NotFound: the tenant has no such parent.
        Invalid: `at_seq` is not between 0 and the parent's head, or the new id is not valid.
        Conflict: the new id is taken.
        SessionArchived: the parent's events are in an archive.
    """
    _check_session_id_not_reserved(parent_session_id)
    parent = await get_session(connection, tenant_id, parent_session_id)
    if archived_upto := await connection.fetchval(_KEPT_FROM_ARCHIVES, tenant_id, parent_session_id):
        raise session_archived_error(parent_session_id, archived_upto)
    if not 0 <= at_seq <= parent.head_seq:
        raise Invalid(f"at_seq {at_seq}: session {parent_session_id} can be forked at 0 to {parent.head_seq}")
    session_id = new_session_id or new_id()
    _check_session_id(session_id)
    access = _access_of_fork(await load_access_of_session(connection, tenant_id, parent_session_id), owner)
    user, origin = user_id or parent.user_id, (parent_session_id, at_seq)
    if not await insert_session_if_new(connection, tenant_id, session_id, user, access, fork_of=origin):
        raise Conflict(f"session {session_id} exists: choose another id for the fork")
    details = {**to_builtins(ForkedFrom(parent_session_id=parent_session_id, at_seq=at_seq)), **(by or {})}
    appended = await append(connection, tenant_id, session_id, [state_change(FORKED, details, source)])
    return await get_session(connection, tenant_id, session_id), appended


async def roll_back_session(
    connection: Connection,
    tenant_id: str,
    session_id: str,
    to_seq: int,
    *,
    expected_seq: int | None,
    source: str,
    by: JsonObject | None = None,
) -> AppendedRange:
    """Appends the event after which the session's state is what it was at `to_seq`. Nothing is rewritten. `by` is who
    asks, for the event.

    Raises:
        NotFound: the tenant has no such session.
        RunInProgress: a run of the session is active: its events would land on a state it has not seen.
        Invalid: `to_seq` is not between 0 and the head.
        SequenceConflict: the head is not `expected_seq`.
    """
    _check_session_id_not_reserved(session_id)
    session = await get_session(connection, tenant_id, session_id, lock=True)
    run_id = await connection.fetchval(_SELECT_ACTIVE_RUN, tenant_id, session_id, list(ACTIVE_RUN_STATUSES))
    if run_id is not None:
        raise RunInProgress(f"run {run_id} of session {session_id} is active: wait for it or cancel it, then roll back")
    if not 0 <= to_seq <= session.head_seq:
        raise Invalid(f"to_seq {to_seq}: session {session_id} can be rolled back to 0 to {session.head_seq}")
    details = {**to_builtins(RolledBackTo(to_seq=to_seq)), **(by or {})}
    rolled_back = state_change(ROLLED_BACK, details, source)
    appended = await append(connection, tenant_id, session_id, [rolled_back], expected_seq=expected_seq)
    await connection.execute(_INSERT_ROLLBACK, tenant_id, session_id, appended.first_seq, to_seq)
    return appended


def _access_of_fork(parent: SessionAccess, owner: str | None) -> SessionAccess:
    """Of a fork: its owner's, and open to those who had a part in what it begins with."""
    owner = owner or parent.owner
    writers = [name for name in parent.writers if name != owner]
    readers = [name for name in (parent.owner, *parent.readers) if name not in (None, owner, *writers)]
    return replace(parent, owner=owner, writers=writers, readers=list(dict.fromkeys(filter(None, readers))))


def _check_session_id_not_reserved(session_id: str) -> None:
    if session_id == AUDIT_SESSION:
        raise Invalid(f"session {AUDIT_SESSION} records what administrators did: it can only be read")


def _check_session_id(session_id: str) -> None:
    _check_session_id_not_reserved(session_id)
    if not is_valid_id(session_id):
        raise Invalid(f"session id {session_id!r}: use 1 to 128 of A-Z a-z 0-9 . _ : - and no leading mark")
