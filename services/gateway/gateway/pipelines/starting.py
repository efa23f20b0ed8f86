"""Starts and cancels pipelines, whatever door the request came by."""

from flotilla.contracts.errors import Conflict
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import PipelineRequest
from gateway.auth.principal import Principal
from gateway.idempotency import IdempotencyClaim
from gateway.pipelines import records
from gateway.pipelines.ending import with_current_status
from gateway.schemas.pipelines import Task, TaskBody, TaskCancelAccepted
from gateway.services import GatewayServices


async def start_or_find_task(
    services: GatewayServices, body: TaskBody, claim: IdempotencyClaim, *, note: records.Note | None = None
) -> Task:
    """Start the pipeline that `body` asks for, of the claim's principal, or return the one that the same request
    started.

    Raises:
        FlotillaError: as `records.submit`; `Invalid`: no such agent.
    """
    caller = claim.principal
    await services.agents.check_agents_are_known(body.steps)
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
    access = services.access_for_new_session(caller)
    submitted = await records.store_pipeline(services.pool, request, claim, access, services.open_work, note=note)
    if submitted.start is not None and await services.temporal.start_workflow(submitted.start):
        await records.mark_running(services.pool, caller.tenant_id, task_id)
    return submitted.task


async def cancel_task_and_agents(services: GatewayServices, caller: Principal, task_id: str) -> TaskCancelAccepted:
    """Ask a pipeline to stop, and its agents with it.

    Raises:
        NotFound: the tenant has no such task.
        Conflict: it ended otherwise.
    """
    task = await with_current_status(
        services.temporal, await records.get_task(services.pool, caller.tenant_id, task_id)
    )
    if task.finished_at is None:
        await services.temporal.cancel_even_if_not_begun(
            await records.record_task_cancel_request(services.pool, task, caller)
        )
    elif task.status != "cancelled":
        raise Conflict(f"task {task_id} is over: {task.status}")
    return TaskCancelAccepted(task_id=task_id, status=task.status)
