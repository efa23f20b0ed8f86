"""Schedules: runs that begin by the clock, whether the gateway is there or not."""

from dataclasses import replace
from typing import Any

from fastapi import Response

from flotilla.contracts.errors import Conflict, Invalid
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import RAGRequest, WorkflowRequest
from flotilla.contracts.schedules import When
from flotilla.schedules import ScheduleRefused
from gateway.auth.principal import EVERYONE, OPERATORS, Principal
from gateway.guard import allow, guarded_router
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schedules import records
from gateway.schedules.syncing import start_scheduled_run_now, sync_to_temporal, with_next_starts
from gateway.schemas.common import ResourceId
from gateway.schemas.schedules import Schedule, ScheduleBody, ScheduleChange, ScheduleList, ScheduleNamed, Times
from gateway.services import Caller, GatewayServices, Wired
from gateway.workflows.catalog import check_workflow_input, find_served_workflow

router = guarded_router("schedules")
_DEFAULTS = When()


class ScheduleChanged(Conflict):
    """It was changed meanwhile."""

    code = "schedule_changed"


@router.post("/v1/schedules", status_code=201, response_model=Schedule, responses=documented_errors(409, 413, 415))
@allow(OPERATORS, for_others=True)
async def create_schedule(services: Wired, caller: Caller, body: ScheduleBody, response: Response) -> Schedule:
    """Start runs by the clock, in the name of who makes the schedule. It pauses when the key it was made with is
    revoked."""
    schedule_id = body.schedule_id or new_id()
    wanted = records.ScheduleSpec(
        schedule_id=schedule_id,
        when=_when(_DEFAULTS, body),
        request=await _request_of(services, caller, schedule_id, body),
        metadata=body.metadata,
        paused=body.paused,
        note=body.note,
    )
    await records.add(services.pool, wanted, new_id(), caller, services.access_for_new_session(caller))
    try:
        await sync_to_temporal(services, caller.tenant_id, schedule_id, records.FIRST_GENERATION)
    except ScheduleRefused:
        await records.take_back_schedule(services.pool, caller.tenant_id, schedule_id)
        raise
    response.headers["Location"] = f"/v1/schedules/{schedule_id}"
    return await with_next_starts(services, caller.tenant_id, schedule_id)


async def _request_of(
    services: GatewayServices, caller: Principal, schedule_id: str, body: ScheduleBody
) -> RAGRequest | WorkflowRequest:
    session_id = body.session_id or ""
    if body.workflow is None:
        return RAGRequest(
            query=body.query or "",
            user_id=caller.subject,
            session_id=session_id,
            tenant_id=caller.tenant_id,
            schedule_id=schedule_id,
        )
    workflow = await find_served_workflow(services.pool, body.workflow)
    await check_workflow_input(services.run_confined, workflow, body.input or {})
    return WorkflowRequest(
        workflow=workflow.name,
        input=body.input or {},
        user_id=caller.subject,
        session_id=session_id,
        tenant_id=caller.tenant_id,
        version=workflow.version,
        task_queue=workflow.task_queue,
        schedule_id=schedule_id,
    )


def _when(before: When, times: Times) -> When:
    """The times as they are from now on: what is null in the request is as without it."""
    given: dict[str, Any] = {
        name: getattr(_DEFAULTS, name) if value is None else value for name, value in times.given().items()
    }
    if given.get("cron"):
        given.setdefault("interval_s", None)
    elif given.get("interval_s") is not None:
        given.setdefault("cron", [])
    when = replace(before, **given)
    if not when.cron and when.interval_s is None:
        raise Invalid("say when it fires: cron or interval_s")
    return when


@router.get("/v1/schedules", response_model=ScheduleList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_schedules(
    services: Wired, caller: Caller, limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> ScheduleList:
    """List one's own schedules, newest first; operators of the tenant see all."""
    rows = await records.page(services.pool, caller.tenant_id, limit=limit, before=read_time_cursor(cursor))
    return ScheduleList(
        schedules=records.schedules_from_rows(rows), next_cursor=next_time_cursor(rows, limit, "schedule_id")
    )


@router.get("/v1/schedules/{schedule_id}", response_model=Schedule, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_schedule(services: Wired, caller: Caller, schedule_id: ResourceId) -> Schedule:
    """One schedule, with its next five starts. `GET /v1/runs?schedule_id=` lists its runs."""
    return await with_next_starts(services, caller.tenant_id, schedule_id)


@router.patch("/v1/schedules/{schedule_id}", response_model=Schedule, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS, for_others=True)
async def change_schedule(services: Wired, caller: Caller, schedule_id: ResourceId, body: ScheduleChange) -> Schedule:
    """Change, pause (`{"paused": true}`) or resume a schedule. Its runs are those of who changes it, from then on."""
    former, generation = await _changed(services, caller, schedule_id, body)
    try:
        await sync_to_temporal(services, caller.tenant_id, schedule_id, generation)
    except ScheduleRefused:
        await records.restore_schedule(services.pool, caller.tenant_id, schedule_id, former)
        raise
    return await with_next_starts(services, caller.tenant_id, schedule_id)


async def _changed(
    services: GatewayServices, caller: Principal, schedule_id: str, body: ScheduleChange
) -> tuple[str, int]:
    """Store the change over what the schedule is now, whatever others change meanwhile; return what it was, and its
    generation now.

    Raises:
        ScheduleChanged: it is not the one that the caller was shown, or another's change of it is being refused.
    """
    while True:
        stored = await records.get(services.pool, caller.tenant_id, schedule_id)
        generation = stored.shown.generation
        if body.expected_generation not in (None, generation):
            expected = body.expected_generation
            raise ScheduleChanged(
                f"schedule {schedule_id} is in generation {generation}, not {expected}: read it again"
            )
        if not stored.is_synced:
            await _check_is_not_refused(services, caller, schedule_id, generation)
        wanted = await _with_changes(services, stored.wanted, body)
        access = services.access_for_new_session(caller)
        former = await records.update_schedule(services.pool, wanted, caller, access, generation=generation)
        if former is not None:
            return former, generation + 1


async def _check_is_not_refused(
    services: GatewayServices, caller: Principal, schedule_id: str, generation: int
) -> None:
    """A change is laid over what Temporal has taken: else it would be refused for what another one wants."""
    try:
        await sync_to_temporal(services, caller.tenant_id, schedule_id, generation)
    except ScheduleRefused as refused:
        message = f"schedule {schedule_id} has a change that is being refused: try again in a moment"
        raise ScheduleChanged(message) from refused


async def _with_changes(
    services: GatewayServices, before: records.ScheduleSpec, body: ScheduleChange
) -> records.ScheduleSpec:
    return replace(
        before,
        when=_when(before.when, body),
        request=await _changed_request(services, before.request, body),
        metadata=before.metadata if body.metadata is None else body.metadata,
        paused=before.paused if body.paused is None else body.paused,
        note=_note(before.note, body),
    )


def _note(before: str, body: ScheduleChange) -> str:
    """The note as it is from now on; one about a pause ends with it."""
    if body.note is not None:
        return body.note
    return "" if body.paused is False else before


async def _changed_request(
    services: GatewayServices, before: RAGRequest | WorkflowRequest, body: ScheduleChange
) -> RAGRequest | WorkflowRequest:
    if isinstance(before, RAGRequest):
        if body.input is not None:
            raise Invalid("the schedule asks a question: change its query, not an input")
        return before if body.query is None else replace(before, query=body.query)
    if body.query is not None:
        raise Invalid(f"the schedule starts workflow {before.workflow}: change its input, not a query")
    if body.input is None:
        return before
    workflow = await find_served_workflow(services.pool, before.workflow)
    await check_workflow_input(services.run_confined, workflow, body.input)
    return replace(before, input=body.input, version=workflow.version, task_queue=workflow.task_queue)


@router.delete("/v1/schedules/{schedule_id}", response_model=ScheduleNamed, responses=documented_errors(404))
@allow(OPERATORS, for_others=True)
async def delete_schedule(services: Wired, caller: Caller, schedule_id: ResourceId) -> ScheduleNamed:
    """Delete a schedule. Its runs stay, those under way go on."""
    generation = await records.remove_schedule(services.pool, caller.tenant_id, schedule_id)
    await sync_to_temporal(services, caller.tenant_id, schedule_id, generation)
    return ScheduleNamed(schedule_id=schedule_id)


@router.post(
    "/v1/schedules/{schedule_id}/trigger",
    status_code=202,
    response_model=ScheduleNamed,
    responses=documented_errors(404),
)
@allow(OPERATORS, for_others=True)
async def trigger_schedule(services: Wired, caller: Caller, schedule_id: ResourceId) -> ScheduleNamed:
    """Start a run now, beside those of the clock; also while the schedule is paused."""
    await start_scheduled_run_now(services, caller.tenant_id, schedule_id)
    return ScheduleNamed(schedule_id=schedule_id)
