"""Tasks: any chain of agents, by routing slip."""

from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import AwareDatetime
from sse_starlette import EventSourceResponse

from gateway.auth.principal import EVERYONE, OPERATORS, Principal
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.live.admission import StreamAccessCheck, stream_access_check
from gateway.names import EVENT_STREAM_MEDIA_TYPE
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.pipelines import records, starting
from gateway.pipelines.following import TaskEventStream, read_last_event_id
from gateway.routes.documented import documented_errors
from gateway.runs.waiting import wait_for_finished_task
from gateway.schemas.common import ID_PATTERN, STORABLE, LastEventId, ResourceId, WaitS
from gateway.schemas.pipelines import PipelineStatus, Task, TaskAccepted, TaskBody, TaskCancelAccepted, TaskList
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("tasks")
_SUBMIT = "/v1/tasks"


@router.post(_SUBMIT, status_code=202, response_model=TaskAccepted, responses=documented_errors(409, 413, 415))
@allow(OPERATORS, free_json=True, for_others=True)
async def submit_task(
    services: Wired, caller: Caller, body: TaskBody, response: Response, idempotency_key: IdempotencyKey = None
) -> Task:
    """Start a pipeline: each agent hands its result straight to the next one's group."""
    claim = IdempotencyClaim(caller, f"POST {_SUBMIT}", idempotency_key, body.model_dump())
    task = await starting.start_or_find_task(services, body, claim)
    response.headers["Location"] = f"/v1/tasks/{task.task_id}"
    return task


@router.get(_SUBMIT, response_model=TaskList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_tasks(
    *,
    services: Wired,
    caller: Caller,
    session_id: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only of this session.")] = None,
    user_id: Annotated[str | None, Query(max_length=256, description="Only of this person."), STORABLE] = None,
    agent: Annotated[str | None, Query(pattern=ID_PATTERN, description="Only with this agent among the steps.")] = None,
    status: Annotated[PipelineStatus | None, Query(description="Only these.")] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Not before this moment.")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="Before this moment.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> TaskList:
    """List tasks, newest first, as their rows have them: one that ended a moment ago may still be running there."""
    only = records.TaskFilter(
        session_id=session_id,
        user_id=user_id,
        agent=agent,
        status=status,
        created_after=created_after,
        created_before=created_before,
    )
    rows = await records.list_tasks(services.pool, caller.tenant_id, only, limit=limit, before=read_time_cursor(cursor))
    return TaskList(
        tasks=[records.task_from_row(row) for row in rows], next_cursor=next_time_cursor(rows, limit, "task_id")
    )


@router.get("/v1/tasks/{task_id}", response_model=Task, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_task(services: Wired, caller: Caller, request: Request, task_id: ResourceId, wait_s: WaitS = 0) -> Task:
    """One pipeline: its status, and its result once it is done."""
    if wait_s:
        services.streams.check_slot_free(caller.tenant_id)
    admission = _task_access_check(services, request, caller, task_id)
    return await wait_for_finished_task(services, caller.tenant_id, task_id, wait_s, admission)


@router.post(
    "/v1/tasks/{task_id}/cancel",
    status_code=202,
    response_model=TaskCancelAccepted,
    responses=documented_errors(404, 409),
)
@allow(OPERATORS, for_others=True)
async def cancel_task(services: Wired, caller: Caller, task_id: ResourceId) -> TaskCancelAccepted:
    """Ask a task to stop, and its agents with it. 409 when it ended otherwise."""
    return await starting.cancel_task_and_agents(services, caller, task_id)


@router.get(
    "/v1/tasks/{task_id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: `session_event`, and `done` at the end. Each id is the event's seq.",
            "content": {EVENT_STREAM_MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **documented_errors(404),
    },
)
@allow(EVERYONE, for_others=True)
async def follow_task(
    *,
    services: Wired,
    caller: Caller,
    request: Request,
    task_id: ResourceId,
    last_event_id: LastEventId = None,
) -> EventSourceResponse:
    """Follow a task: its events of the session's log, complete and in order, until it is over."""
    seq = read_last_event_id(last_event_id)
    task = await records.get_task(services.pool, caller.tenant_id, task_id)
    services.streams.check_slot_free(caller.tenant_id)
    admission = _task_access_check(services, request, caller, task_id)
    return EventSourceResponse(TaskEventStream(services, caller.tenant_id, task, seq, admission).events(), sep="\n")


def _task_access_check(
    services: GatewayServices, request: Request, caller: Principal, task_id: str
) -> StreamAccessCheck:
    return stream_access_check(request, caller, partial(records.get_task, services.pool, caller.tenant_id, task_id))
