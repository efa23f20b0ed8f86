"""Archives of sessions that are over: what may go, what went, and the way back."""

from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

from flotilla.audit import archives
from flotilla.audit.archives import ArchiveFile
from flotilla.audit.requests import AuditRequest
from flotilla.contracts.errors import Forbidden, Invalid
from flotilla.postgres import current_viewer, tenant_transaction
from gateway.auth.principal import ADMINS
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, read_time_cursor, time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.audit import ArchivableList, ArchiveBody, ArchiveList, ReturnedEventsBody
from gateway.schemas.common import ID_PATTERN, ResourceId
from gateway.services import Caller, Wired

router = guarded_router("audit")


def _check_sees_all() -> None:
    viewer = current_viewer()
    if viewer is None or not viewer.sees_all:
        raise Forbidden("only those who see all sessions may archive them (FLOTILLA_SESSION_OPERATORS)")


@router.get("/v1/audit/archivable", response_model=ArchivableList, responses=documented_errors())
@allow(ADMINS)
async def list_archivable(
    services: Wired,
    caller: Caller,
    before: Annotated[AwareDatetime, Query(description="Sessions with newer events are left out.")],
    after: Annotated[
        str | None, Query(pattern=ID_PATTERN, description="Only those with an id behind this one.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> ArchivableList:
    """List the sessions whose events may go into an archive: over, signed to the end, held by nobody."""
    _check_sees_all()
    found = await archives.list_archivable_sessions(services.pool, caller.tenant_id, before, after or "", limit)
    return ArchivableList(sessions=found)


@router.get("/v1/audit/archives", response_model=ArchiveList, responses=documented_errors())
@allow(ADMINS)
async def list_archives(
    services: Wired,
    caller: Caller,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="By default all sessions.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> ArchiveList:
    """List which sessions were archived into which file, newest first."""
    before = read_time_cursor(cursor)
    rows = await archives.list_archives(services.pool, caller.tenant_id, session_id, before, limit)
    following = time_cursor(rows[-1].asked_at, rows[-1].session_id) if len(rows) == limit else None
    return ArchiveList(archives=rows, next_cursor=following)


@router.post(
    "/v1/audit/archives", status_code=202, response_model=AuditRequest, responses=documented_errors(409, 413, 415)
)
@allow(ADMINS)
async def archive(services: Wired, caller: Caller, body: ArchiveBody) -> AuditRequest:
    """Ask that the events of these sessions leave the projection, since they are in a file that was verified.

    Kafka keeps its copy. Recorded in the tenant's audit session, with the file's hash.
    """
    _check_sees_all()
    sessions = {one.session_id: one.seq for one in body.sessions}
    if len(sessions) < len(body.sessions):
        raise Invalid("a session is named twice")
    file = ArchiveFile(place=body.file, sha256=bytes.fromhex(body.file_sha256), sessions=sessions)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await archives.request_archive(connection, caller.tenant_id, file, caller.subject)


@router.post("/v1/audit/archives/{session_id}/events", status_code=204, responses=documented_errors(404, 413, 415))
@allow(ADMINS, free_json=True)
async def return_events(services: Wired, caller: Caller, session_id: ResourceId, body: ReturnedEventsBody) -> None:
    """Hand in events of an archived session. They are held until the restore is asked for, and checked then."""
    events = [(event.seq, event.body) for event in body.events]
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await archives.hand_in_archived_events(connection, caller.tenant_id, session_id, events)


@router.post(
    "/v1/audit/archives/{session_id}/restore",
    status_code=202,
    response_model=AuditRequest,
    responses=documented_errors(404, 413, 415),
)
@allow(ADMINS)
async def restore(services: Wired, caller: Caller, session_id: ResourceId) -> AuditRequest:
    """Ask that the events that were handed in take their places again, if they are those that were archived."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await archives.request_restore(connection, caller.tenant_id, session_id, caller.subject)
