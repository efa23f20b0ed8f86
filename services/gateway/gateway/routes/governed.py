"""Governed actions and approvals."""

from typing import Annotated, Literal

from fastapi import Query, Response

from flotilla.contracts.approvals import ActionStatus, ApprovalStatus, DecisionAnswer, DecisionRequest
from flotilla.contracts.errors import Conflict, Invalid
from flotilla.contracts.ids import new_id
from flotilla.contracts.requests import ActionRequest
from flotilla.contracts.votes import SignedVote
from flotilla.postgres import tenant_transaction
from gateway.auth.on_behalf import HEADER
from gateway.auth.principal import EVERYONE, OPERATORS, Principal
from gateway.governed import actions, inbox
from gateway.governed.deciding import submit_vote
from gateway.guard import allow, guarded_router
from gateway.idempotency import IdempotencyClaim, IdempotencyKey
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.routes.signers import signed_statement_from_body
from gateway.schemas.common import ResourceId
from gateway.schemas.governed import (
    Action,
    ActionAccepted,
    ActionBody,
    ActionCancelAccepted,
    ActionList,
    Approval,
    ApprovalCount,
    ApprovalList,
    DecisionBody,
)
from gateway.services import Caller, GatewayServices, Wired
from gateway.signers.records import load_enrolled_key

router = guarded_router("actions and approvals")
_SUBMIT = "/v1/actions"


@router.post(_SUBMIT, status_code=202, response_model=ActionAccepted, responses=documented_errors(409, 413, 415))
@allow(OPERATORS, free_json=True, for_others=True)
async def submit_action(
    services: Wired, caller: Caller, body: ActionBody, response: Response, idempotency_key: IdempotencyKey = None
) -> Action:
    """Submit an action. Policy says whether it runs at once or waits for the right people."""
    action_id = new_id()
    request = ActionRequest(
        action=body.action,
        description=body.description,
        risk_level=body.risk_level,
        requested_by=caller.acted_by or caller.subject,
        args=body.args,
        action_id=action_id,
        tenant_id=caller.tenant_id,
        session_id=body.session_id or action_id,
        on_behalf_of=_on_behalf_of(caller, body),
        requested_by_service=not caller.is_person,
    )
    claim = IdempotencyClaim(caller, f"POST {_SUBMIT}", idempotency_key, body.model_dump())
    submitted = await actions.store_submitted_action(
        services.pool, services.current_policy, request, claim, services.access_for_new_session(caller)
    )
    if submitted.start is not None:
        await services.temporal.start_workflow(submitted.start)
    response.headers["Location"] = f"/v1/actions/{submitted.action.action_id}"
    return submitted.action


def _on_behalf_of(caller: Principal, body: ActionBody) -> str:
    """Return the person at the root: the one that the header names, or whom a service that acts for nobody names."""
    if caller.acted_by is None:
        return body.on_behalf_of or ""
    if body.on_behalf_of not in (None, caller.subject):
        raise Invalid(f"on_behalf_of: the header {HEADER} says {caller.subject}, the body {body.on_behalf_of}")
    return caller.subject


@router.get(_SUBMIT, response_model=ActionList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_actions(
    services: Wired,
    caller: Caller,
    status: Annotated[ActionStatus | None, Query(description="Only these.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> ActionList:
    """List actions, newest first."""
    before = read_time_cursor(cursor)
    rows = await actions.list_actions(services.pool, caller.tenant_id, status=status, limit=limit, before=before)
    return ActionList(
        actions=[actions.action_from_row(row) for row in rows], next_cursor=next_time_cursor(rows, limit, "action_id")
    )


@router.get("/v1/actions/{action_id}", response_model=Action, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_action(services: Wired, caller: Caller, action_id: ResourceId) -> Action:
    """One action: where it is, what was decided, what came of it."""
    return await actions.get_action(services.pool, caller.tenant_id, action_id)


@router.post(
    "/v1/actions/{action_id}/cancel",
    status_code=202,
    response_model=ActionCancelAccepted,
    responses=documented_errors(404, 409),
)
@allow(OPERATORS, for_others=True)
async def cancel_action(services: Wired, caller: Caller, action_id: ResourceId) -> ActionCancelAccepted:
    """Call off an action that is not executed yet. 409 once it is, or when it ended otherwise."""
    action = await actions.get_action(services.pool, caller.tenant_id, action_id)
    if action.finished_at is not None or action.status == "approved":
        if action.status != "cancelled":
            raise Conflict(f"action {action_id} can't be called off: it is {action.status}")
        return ActionCancelAccepted(action_id=action_id, status=action.status)
    await services.temporal.cancel_even_if_not_begun(
        await actions.record_action_cancel_request(services.pool, action, caller)
    )
    return ActionCancelAccepted(action_id=action_id, status=action.status)


@router.get("/v1/approvals", response_model=ApprovalList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_approvals(
    *,
    services: Wired,
    caller: Caller,
    status: Annotated[ApprovalStatus | None, Query(description="Only these; by default all.")] = None,
    order: Annotated[Literal["newest", "deadline"], Query(description="`deadline`: the earliest first.")] = "newest",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> ApprovalList:
    """The inbox: what will be executed, how risky it is and why, who asks, until when, who voted."""
    after, by_deadline = read_time_cursor(cursor), order == "deadline"
    rows = await inbox.list_approvals(
        services.pool, caller.tenant_id, status=status, by_deadline=by_deadline, limit=limit, after=after
    )
    time_name = "deadline_at" if by_deadline else "created_at"
    return ApprovalList(
        approvals=[inbox.approval_from_row(row, services.current_policy) for row in rows],
        next_cursor=next_time_cursor(rows, limit, "approval_id", time_name),
    )


@router.get("/v1/approvals/count", response_model=ApprovalCount, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def count_approvals(services: Wired, caller: Caller) -> ApprovalCount:
    """How many approvals wait for a decision."""
    return ApprovalCount(pending=await inbox.count_pending_approvals(services.pool, caller.tenant_id))


@router.get("/v1/approvals/{approval_id}", response_model=Approval, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_approval(services: Wired, caller: Caller, approval_id: ResourceId) -> Approval:
    """One approval: exactly what will be executed, and the hash to decide on."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        return await inbox.get_approval(connection, services.current_policy, caller.tenant_id, approval_id)


@router.post(
    "/v1/approvals/{approval_id}/decision",
    response_model=DecisionAnswer,
    responses=documented_errors(404, 409, 413, 415),
)
@allow(EVERYONE, free_json=True)
async def decide_approval(
    services: Wired, caller: Caller, approval_id: ResourceId, body: DecisionBody
) -> DecisionAnswer:
    """Vote. Policy, not this route, says who may: so that refused attempts are recorded too."""
    if (body.decision == "edit") != (body.args is not None):
        raise Invalid("args: give the whole new arguments with an edit, and with nothing else")
    attempt = DecisionRequest(
        approval_id=approval_id,
        attempt_id=new_id(),
        subject=caller.subject,
        roles=sorted(caller.roles),
        is_person=caller.is_person,
        decision=body.decision,
        content_hash=body.content_hash,
        reason=body.reason,
        args=body.args,
        proof=await _proof(services, caller, body),
    )
    return await submit_vote(services, caller.tenant_id, attempt)


async def _proof(services: GatewayServices, caller: Principal, body: DecisionBody) -> SignedVote | None:
    if body.signature is None:
        return None
    if body.decision == "edit":
        raise Invalid("signature: an edit is not signed; who approves the new arguments signs them")
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        key = await load_enrolled_key(connection, caller, body.signature.signer_id)
    return SignedVote(vote=signed_statement_from_body(body.signature), signer=key.signer, approval=key.approval)
