"""Starts runs: whatever door a request comes by, it is checked, committed and handed to Temporal here."""

from collections.abc import Sequence

import structlog

from flotilla.contracts.errors import FlotillaError, Forbidden
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import QUESTION
from flotilla.contracts.requests import RAGRequest, WorkflowRequest
from flotilla.contracts.tasks import Turn
from gateway.auth.principal import BrowserTokenGrant, Principal
from gateway.idempotency import IdempotencyClaim
from gateway.runs import records
from gateway.runs.notices import checked_receiver
from gateway.schemas.runs import Run, RunRequest
from gateway.services import GatewayServices
from gateway.workflows.catalog import check_workflow_input, find_served_workflow

log = structlog.get_logger(__name__)


async def start_or_find_run(
    services: GatewayServices,
    session_id: str,
    body: RunRequest,
    claim: IdempotencyClaim,
    *,
    history: Sequence[Turn] = (),
    note: records.Note | None = None,
) -> Run:
    """Start the run that `body` asks for, of the claim's principal, or return the one that the same request started.
    `history`: the earlier turns that a question continues, oldest first; empty: those of the session.

    Raises:
        FlotillaError: as `records.store_run`; `Invalid`: no such workflow or agent; `Forbidden`: more than a web page's
            token is for.
        RequestValidationError: the input is not what the workflow takes.
    """
    caller = claim.principal
    if caller.grant is not None:
        _check_grant(caller.grant, session_id, body)
    request = await _request_of(services, caller, session_id, body, history)
    started = await records.store_run(
        services.pool,
        request,
        claim,
        services.access_for_new_session(caller),
        services.open_work,
        metadata=body.metadata,
        if_active=body.if_active,
        notify=checked_receiver(services, body.notify),
        note=note,
    )
    if started.start is not None:
        await services.temporal.start_workflow(started.start)
    if started.interrupts is not None:
        await _ask_to_end(services, started.interrupts)
    return started.run


def _check_grant(grant: BrowserTokenGrant, session_id: str, body: RunRequest) -> None:
    """Raise Forbidden where a web page asks for more than its token is for: the fleet's agents are not its to choose,
    nor whom the fleet calls."""
    if session_id not in grant.sessions:
        raise Forbidden(f"the browser token is not for session {session_id}: its maker lists it in sessions")
    asked = body.workflow or QUESTION
    if asked not in grant.workflows:
        raise Forbidden(f"the browser token may not start {asked}: its maker lists it in workflows")
    if body.steps or body.notify is not None:
        raise Forbidden("steps and notify are not for web pages: start such a run with the key of a service or person")


async def _ask_to_end(services: GatewayServices, workflow_id: str) -> None:
    """Ask a run to end for another one; where that fails, the worker's leader asks again."""
    try:
        await services.temporal.cancel_workflow(workflow_id)
    except FlotillaError as error:
        log.warning("run_not_interrupted", workflow_id=workflow_id, error=str(error))


async def _request_of(
    services: GatewayServices, caller: Principal, session_id: str, body: RunRequest, history: Sequence[Turn]
) -> RAGRequest | WorkflowRequest:
    if body.workflow is not None:
        workflow = await find_served_workflow(services.pool, body.workflow)
        await check_workflow_input(services.run_confined, workflow, body.input or {})
        return WorkflowRequest(
            workflow=workflow.name,
            input=body.input or {},
            user_id=caller.subject,
            session_id=session_id,
            tenant_id=caller.tenant_id,
            run_id=new_id(),
            version=workflow.version,
            task_queue=workflow.task_queue,
            requested_by_service=not caller.is_person,
            acted_by=caller.acted_by or "",
        )
    await services.agents.check_agents_are_known(body.steps)
    return RAGRequest(
        query=body.query or "",
        user_id=caller.subject,
        session_id=session_id,
        tenant_id=caller.tenant_id,
        run_id=new_id(),
        steps=body.steps,
        top_k=body.top_k,
        history=list(history),
    )
