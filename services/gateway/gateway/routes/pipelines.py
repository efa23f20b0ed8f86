"""Tasks: any chain of agents, by routing slip."""

from fastapi import Response

from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import PipelineRequest
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.pipelines import records
from gateway.pipelines.ending import with_current_status
from gateway.routes.documented import refusals
from gateway.schemas.common import ResourceId
from gateway.schemas.pipelines import Task, TaskAccepted, TaskBody
from gateway.services import Caller, Wired

router = guarded_router("tasks")
_SUBMIT = "/v1/tasks"


@router.post(_SUBMIT, status_code=202, response_model=TaskAccepted, responses=refusals(409, 413, 415))
@allow(OPERATORS, free_json=True, for_others=True)
async def submit_task(
    services: Wired, caller: Caller, body: TaskBody, response: Response, idempotency_key: IdempotencyKey = None
) -> Task:
    """Start a pipeline: each agent hands its result straight to the next one's group."""
    await services.agents.check(body.steps)
    task_id = new_id()
    request = PipelineRequest(
        steps=body.steps,
        input=body.input,
        user_id=caller.subject,
        task_id=task_id,
        tenant_id=caller.tenant_id,
        session_id=body.session_id or task_id,
        timeout_s=body.timeout_s,
    )
    claim = IdempotencyClaim(caller, f"POST {_SUBMIT}", idempotency_key, body.model_dump())
    submitted = await records.submit(services.pool, request, claim, services.access_of(caller), services.open_work)
    if submitted.start is not None and await services.temporal.start(submitted.start):
        await records.mark_running(services.pool, caller.tenant_id, task_id)
    response.headers["Location"] = f"/v1/tasks/{submitted.task.task_id}"
    return submitted.task


@router.get("/v1/tasks/{task_id}", response_model=Task, responses=refusals(404))
@allow(EVERYONE, for_others=True)
async def get_task(services: Wired, caller: Caller, task_id: ResourceId) -> Task:
    """One pipeline: its status, and its result once it is done."""
    task = await records.get_task(services.pool, caller.tenant_id, task_id)
    return await with_current_status(services.temporal, task)
