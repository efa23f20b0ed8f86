"""Runs: questions, and what becomes of them."""

from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import AwareDatetime
from sse_starlette import EventSourceResponse

from flotilla.contracts.errors import Invalid
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import OPEN_RUN_STATUSES, OutsideEvent, RunStatus
from flotilla.contracts.values import why_not_storable
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import EVERYONE, OPERATORS, Principal
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.live.admission import stream_access_check
from gateway.names import EVENT_STREAM_MEDIA_TYPE
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.runs import cancelling, outside_events, records, starting
from gateway.runs.cited import get_readable_run, with_cited_documents
from gateway.runs.events import read_stream_position, stream_run_events
from gateway.runs.notices import list_notices
from gateway.runs.steps import list_steps
from gateway.runs.waiting import wait_for_finished_run
from gateway.schemas.common import ID_PATTERN, STORABLE, LastEventId, RunId, SessionId, WaitS
from gateway.schemas.runs import (
    CancelAccepted,
    EventName,
    Run,
    RunAccepted,
    RunEventAccepted,
    RunEventBody,
    RunList,
    RunNotices,
    RunRequest,
    RunSteps,
)
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("runs")
METADATA = "metadata."
_SEND = "/v1/runs/{run_id}/events/{name}"
_START = "/v1/sessions/{session_id}/runs"


@router.post(
    _START,
    status_code=202,
    response_model=RunAccepted,
    responses={200: {"model": Run, "description": "Done within `wait_s`."}, **documented_errors(409, 413, 415)},
)
@allow(OPERATORS, for_others=True, browsers="run")
async def start_run(
    *,
    services: Wired,
    caller: Caller,
    session_id: SessionId,
    body: RunRequest,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunAccepted | Response:
    """Ask a question in a session, or start a workflow; a session that is new is created.

    It has one active run at a time: `if_active` says what happens while there is one.
    """
    unused = {name for name in ("workflow", "input", "metadata") if not getattr(body, name)}
    unused |= {"if_active"} if body.if_active == "reject" else set()
    unused |= {"notify"} if body.notify is None else set()
    content = [session_id, body.model_dump(exclude={"wait_s"} | unused)]
    claim = IdempotencyClaim(caller, f"POST {_START}", idempotency_key, content)
    run = await starting.start_or_find_run(services, session_id, body, claim)
    response.headers["Location"] = f"/v1/runs/{run.run_id}"
    if body.wait_s:
        finished = await _finished(services, caller, request, run.run_id, body.wait_s)
        if finished is not None:
            return _json(finished, 200, response.headers["Location"])
    return run


async def _finished(
    services: GatewayServices, caller: Principal, request: Request, run_id: str, wait_s: float
) -> Run | None:
    read = partial(records.load_followed_run, services.pool, caller.tenant_id, run_id)
    admission = stream_access_check(request, caller, read)
    return await wait_for_finished_run(services, caller.tenant_id, run_id, wait_s, admission)


def _json(run: Run, status: int, location: str) -> Response:
    return Response(run.model_dump_json(), status, {"Location": location}, "application/json")


@router.get("/v1/runs", response_model=RunList, responses=documented_errors())
@allow(EVERYONE, for_others=True, query_prefix=METADATA, browsers="read")
async def list_runs(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this session.")] = None,
    status: Annotated[RunStatus | None, Query(description="Only these.")] = None,
    user_id: Annotated[str | None, Query(max_length=256, description="Only of this person."), STORABLE] = None,
    workflow: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this; `rag`: questions.")] = None,
    schedule_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this schedule.")] = None,
    parent_run_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only those that it started.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Not before this moment.")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="Before this moment.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> RunList:
    """List runs, newest first. `metadata.NAME=VALUE` shows those with that metadata; several names all have to fit."""
    only = records.RunFilter(
        session_id=session_id,
        status=status,
        user_id=user_id,
        workflow=workflow,
        schedule_id=schedule_id,
        parent_run_id=parent_run_id,
        metadata=_metadata_in(request),
        created_after=created_after,
        created_before=created_before,
    )
    before = read_time_cursor(cursor)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        rows = await records.list_runs(connection, caller.tenant_id, only, limit=limit, before=before)
        runs = await with_cited_documents(connection, caller.tenant_id, [records.run_from_row(row) for row in rows])
    return RunList(runs=runs, next_cursor=next_time_cursor(rows, limit, "run_id"))


def _metadata_in(request: Request) -> dict[str, str]:
    """The values of `metadata.NAME` parameters.

    Raises:
        Invalid: no store holds one of them.
    """
    parameters = request.query_params.items()
    given = {name.removeprefix(METADATA): value for name, value in parameters if name.startswith(METADATA)}
    if problem := why_not_storable(given):
        raise Invalid(f"metadata: {problem}")
    return given


@router.get("/v1/runs/{run_id}", response_model=Run, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_run(services: Wired, caller: Caller, request: Request, run_id: RunId, wait_s: WaitS = 0) -> Run:
    """One run: its answer, or why there is none."""
    run = await get_readable_run(services.pool, caller.tenant_id, run_id)
    if wait_s and run.status in OPEN_RUN_STATUSES:
        services.streams.check_slot_free(caller.tenant_id)
        finished = await _finished(services, caller, request, run_id, wait_s)
        run = finished or await get_readable_run(services.pool, caller.tenant_id, run_id)
    return run


@router.get("/v1/runs/{run_id}/steps", response_model=RunSteps, responses=documented_errors(404))
@allow(EVERYONE, for_others=True, browsers="read")
async def get_steps(services: Wired, caller: Caller, run_id: RunId) -> RunSteps:
    """What was done for a run: workflow steps, delegations, model calls, with times and attempts."""
    run = await records.get_run(services.pool, caller.tenant_id, run_id)
    return await list_steps(services, caller.tenant_id, run)


@router.get("/v1/runs/{run_id}/notices", response_model=RunNotices, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_notices(services: Wired, caller: Caller, run_id: RunId) -> RunNotices:
    """What the run's receiver gets, and whether it got it."""
    return RunNotices(notices=await list_notices(services.pool, caller.tenant_id, run_id))


@router.get(
    "/v1/runs/{run_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: `token`, `reset` before the tokens of a new attempt, `step`, "
            "`session_event`, and `done` at the end. Each id is `<redis id>;<seq>`.",
            "content": {EVENT_STREAM_MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **documented_errors(404),
    },
)
@allow(EVERYONE, for_others=True, browsers="read")
async def follow_run(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    run_id: RunId,
    last_event_id: LastEventId = None,
) -> EventSourceResponse:
    """Follow a run live. Goes on after `Last-Event-ID` on any replica; once the live stream is gone, from the log.

    Ends within seconds when the caller may no longer read the session, the key is revoked, the sign-in is over or the
    token has expired.
    """
    position = read_stream_position(last_event_id)
    run = await records.load_followed_run(services.pool, caller.tenant_id, run_id)
    services.streams.check_slot_free(caller.tenant_id)
    read = partial(records.load_followed_run, services.pool, caller.tenant_id, run_id)
    admission = stream_access_check(request, caller, read)
    return EventSourceResponse(stream_run_events(services, caller.tenant_id, run, position, admission), sep="\n")


@router.post(_SEND, status_code=202, response_model=RunEventAccepted, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS, for_others=True)
async def send_event(
    *,
    services: Wired,
    caller: Caller,
    run_id: RunId,
    name: EventName,
    body: RunEventBody,
    idempotency_key: IdempotencyKey = None,
) -> RunEventAccepted:
    """Send an event to a run whose workflow waits for it, or will. With the same `Idempotency-Key` it counts once."""
    event = OutsideEvent(event_id=new_id(), name=name, data=body.data)
    content = [run_id, name, body.model_dump()]
    claim = IdempotencyClaim(caller, f"POST {_SEND}", idempotency_key, content)
    event_id = await outside_events.store_and_signal_event(services, caller, run_id, event, claim)
    return RunEventAccepted(run_id=run_id, event_id=event_id)


@router.post(
    "/v1/runs/{run_id}/cancel", status_code=202, response_model=CancelAccepted, responses=documented_errors(404, 409)
)
@allow(OPERATORS, for_others=True, browsers="run")
async def cancel_run(services: Wired, caller: Caller, run_id: RunId) -> CancelAccepted:
    """Ask a run to stop, and its agents with it. 409 when it ended otherwise."""
    return await cancelling.cancel_run_and_agents(services, caller, run_id)
