"""Sessions: the history of each conversation, and travel in it."""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Annotated

import asyncpg
from fastapi import Query, Response
from fastapi.responses import StreamingResponse

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, no_such
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.eventstore import sessions as stored
from flotilla.eventstore import state_json_blocks
from flotilla.postgres import tenant_transaction
from gateway.appending import append_to_session
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import MAX_SEQ, STORABLE, SessionId
from gateway.schemas.sessions import (
    AppendBody,
    Appended,
    ForkRequest,
    Lineage,
    RollbackRequest,
    RolledBack,
    Session,
    SessionEvents,
    SessionList,
    SessionRequest,
    SessionState,
    StateDiff,
)
from gateway.services import Caller, Wired

router = guarded_router("sessions")
_EVENTS = "/v1/sessions/{session_id}/events"
JSON = "application/json"
DEFAULT_EVENTS = 200
MAX_EVENTS = 1000
# A page, newest first; $3 and $4 are the last row of the page before.
_LIST_SESSIONS = """
SELECT session_id, user_id, acted_by, head_seq, parent_session_id, forked_at_seq, metadata, created_at, kind
FROM flotilla.sessions
WHERE tenant_id = $1 AND ($3::timestamptz IS NULL OR (created_at, session_id) < ($3, $4))
  AND ($5::text IS NULL OR position(lower($5) IN lower(session_id)) > 0) AND session_id <> $6
ORDER BY created_at DESC, session_id DESC LIMIT $2
"""


# The tree that a session belongs to, from its root on; $3 is the most sessions.
_SELECT_LINEAGE_SESSIONS = """
WITH RECURSIVE up AS (
    SELECT session_id, parent_session_id FROM flotilla.sessions WHERE tenant_id = $1 AND session_id = $2
    UNION
    SELECT s.session_id, s.parent_session_id
    FROM up JOIN flotilla.sessions AS s ON s.tenant_id = $1 AND s.session_id = up.parent_session_id
), tree AS (
    SELECT session_id FROM up WHERE parent_session_id IS NULL
    UNION
    SELECT s.session_id
    FROM tree JOIN flotilla.sessions AS s ON s.tenant_id = $1 AND s.parent_session_id = tree.session_id
)
SELECT s.session_id, s.user_id, s.acted_by, s.head_seq, s.parent_session_id, s.forked_at_seq, s.metadata, s.created_at,
    s.kind
FROM tree JOIN flotilla.sessions AS s ON s.tenant_id = $1 AND s.session_id = tree.session_id
ORDER BY s.created_at, s.session_id LIMIT $3
"""
MAX_LINEAGE = 500


class SessionExists(Conflict):
    """The id is taken by a session with other metadata."""

    code = "session_exists"


@router.post(
    "/v1/sessions",
    status_code=201,
    response_model=Session,
    responses={200: {"model": Session, "description": "It was there already."}, **documented_errors(409, 413, 415)},
)
@allow(OPERATORS, free_json=True, for_others=True)
async def create_session(services: Wired, caller: Caller, body: SessionRequest, response: Response) -> stored.Session:
    """Open a session, which is the caller's. Opening the same one again changes nothing."""
    session_id = body.session_id or new_id()
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        session, is_new = await stored.open_session(
            connection,
            caller.tenant_id,
            session_id,
            caller.subject,
            body.metadata,
            access=services.access_for_new_session(caller),
        )
    if not is_new and body.metadata and body.metadata != session.metadata:
        raise SessionExists(f"session {session_id} exists with other metadata: choose another id")
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/sessions/{session.session_id}"
    return session


@router.get("/v1/sessions", response_model=SessionList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_sessions(
    services: Wired,
    caller: Caller,
    q: Annotated[str | None, Query(max_length=128, description="Only those whose id holds this."), STORABLE] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> SessionList:
    """List sessions, newest first."""
    before = read_time_cursor(cursor)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(_LIST_SESSIONS, caller.tenant_id, limit, *before, q, AUDIT_SESSION)
    return SessionList(
        sessions=[_session(row) for row in rows], next_cursor=next_time_cursor(rows, limit, "session_id")
    )


def _session(row: asyncpg.Record) -> Session:
    return Session.model_validate({**dict(row), "metadata": json.loads(row["metadata"])})


@router.get("/v1/sessions/{session_id}", response_model=Session, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_session(services: Wired, caller: Caller, session_id: SessionId) -> stored.Session:
    """One session."""
    return await services.event_store(caller.tenant_id).session(session_id)


@router.get("/v1/sessions/{session_id}/lineage", response_model=Lineage, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_lineage(services: Wired, caller: Caller, session_id: SessionId) -> Lineage:
    """The session's root and everything that was forked from it, oldest first; 500 at most."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await connection.fetch(_SELECT_LINEAGE_SESSIONS, caller.tenant_id, session_id, MAX_LINEAGE)
    if not rows:
        raise no_such("session", session_id)
    return Lineage(sessions=[_session(row) for row in rows])


@router.get("/v1/sessions/{session_id}/events", response_model=SessionEvents, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_events(
    *,
    services: Wired,
    caller: Caller,
    session_id: SessionId,
    from_seq: Annotated[int, Query(ge=1, le=MAX_SEQ, description="From this event on.")] = 1,
    to_seq: Annotated[int | None, Query(ge=0, le=MAX_SEQ, description="Up to and with this event.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = DEFAULT_EVENTS,
) -> Response:
    """The session's events in order, complete up to the newest one that is committed."""
    last = from_seq + limit - 1
    page = await services.event_store(caller.tenant_id).read_page(
        session_id, from_seq, last if to_seq is None else min(to_seq, last)
    )
    end = page.head_seq if to_seq is None else min(to_seq, page.head_seq)
    next_seq = str(page.next_seq) if page.next_seq <= end else "null"
    body = b'{"events":[%s],"next_seq":%s}' % (b",".join(page.bodies), next_seq.encode())
    return Response(body, media_type=JSON)


@router.post(_EVENTS, status_code=201, response_model=Appended, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS, free_json=True)
async def append_events(
    services: Wired, caller: Caller, session_id: SessionId, body: AppendBody, idempotency_key: IdempotencyKey = None
) -> Appended:
    """Append events in the name of a trusted service: its key was made with `may_append_as`.

    It writes what agents may: messages but the user's, tool calls and results, errors, and changes with names of its
    own; none that steers a run, an action, an approval, an order or the session.
    """
    claim = IdempotencyClaim(caller, f"POST {_EVENTS}", idempotency_key, [session_id, body.model_dump()])
    return await append_to_session(services, caller, session_id, body, claim)


@router.get("/v1/sessions/{session_id}/state", response_model=SessionState, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_state(
    services: Wired,
    caller: Caller,
    session_id: SessionId,
    at_seq: Annotated[int | None, Query(ge=0, le=MAX_SEQ, description="Right after this event.")] = None,
    at_time: Annotated[datetime | None, Query(description="At this time, with its offset.")] = None,
) -> Response:
    """What the session's events amount to: now, after an event, or at a time."""
    state = await services.event_store(caller.tenant_id).state_at(session_id, at_seq, time=at_time)
    return StreamingResponse(_each(state_json_blocks(state)), media_type=JSON)


@router.get("/v1/sessions/{session_id}/diff", response_model=StateDiff, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_diff(
    services: Wired,
    caller: Caller,
    session_id: SessionId,
    from_seq: Annotated[int, Query(ge=0, le=MAX_SEQ)],
    to_seq: Annotated[int, Query(ge=0, le=MAX_SEQ)],
) -> Response:
    """What changed from the state at one event to the state at another."""
    found = await services.event_store(caller.tenant_id).diff(session_id, from_seq, to_seq)
    return Response(to_json(found), media_type=JSON)


@router.post(
    "/v1/sessions/{session_id}/fork",
    status_code=201,
    response_model=Session,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(OPERATORS, for_others=True)
async def fork(
    services: Wired, caller: Caller, session_id: SessionId, body: ForkRequest, response: Response
) -> stored.Session:
    """Open a session whose history is this one's up to `at_seq`. Allowed while a run is active.

    It is the caller's, and shared with those who may read or write this one. Anyone who reads it must be allowed
    to read this one, too.
    """
    store = services.event_store(caller.tenant_id)
    session = await store.fork(
        session_id, body.at_seq, body.session_id, user_id=caller.subject, owner=caller.name, by=caller.by
    )
    response.headers["Location"] = f"/v1/sessions/{session.session_id}"
    return session


@router.post(
    "/v1/sessions/{session_id}/rollback", response_model=RolledBack, responses=documented_errors(404, 409, 413, 415)
)
@allow(OPERATORS, for_others=True)
async def rollback(services: Wired, caller: Caller, session_id: SessionId, body: RollbackRequest) -> RolledBack:
    """Make the state what it was at `to_seq`, by one more event. 409 while a run is active."""
    appended = await services.event_store(caller.tenant_id).rollback(session_id, body.to_seq, by=caller.by)
    return RolledBack(session_id=session_id, to_seq=body.to_seq, seq=appended.last_seq)


async def _each(blocks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Starlette would take each block of a plain iterator in a thread."""
    for block in blocks:
        yield block
