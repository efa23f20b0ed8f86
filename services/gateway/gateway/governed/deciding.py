"""A vote: recorded first, then sent to the workflow, which alone decides whether it counts.

The protocol is in `flotilla.contracts.approvals`. The Update's id is made of voter, decision and content, so the same
vote again meets the first one's answer, whichever replica it reaches.
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import get_args

import structlog
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from flotilla.approvals.ballot import VoteRefusal
from flotilla.approvals.events import vote_attempted_event, vote_refused_event
from flotilla.approvals.policy import ApprovalPolicy
from flotilla.contracts.approvals import (
    DECIDE_UPDATE,
    REFUSAL_STATUS,
    DecisionAnswer,
    DecisionRequest,
    RefusalType,
    content_hash,
    decision_update_id,
)
from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Invalid, NotFound, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.encryption.tables import DECISIONS
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, seal_columns
from flotilla.telemetry.metrics import IMPERSONATIONS_REFUSED
from gateway.auth.issuers import key_issuers_of_approval, key_issuers_of_subject
from gateway.governed.actions import normalize_args_if_known
from gateway.governed.inbox import get_approval
from gateway.governed.recording import recording_transaction
from gateway.problems import HttpProblem, snake_case
from gateway.schemas.governed import Approval
from gateway.services import GatewayServices
from gateway.temporal import TemporalGateway, error_from_temporal

ANSWER_TIMEOUT = timedelta(seconds=5)
log = structlog.get_logger(__name__)
_SELECT_ANSWERED_APPROVAL_DECISIONS = """
SELECT answer FROM flotilla.approval_decisions
WHERE tenant_id = $1 AND approval_id = $2 AND update_id = $3 AND outcome = 'counted'
"""
_INSERT_APPROVAL_DECISIONS = """
INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash,
    reason, args, authenticated, policy_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, true, $10)
"""
# The attempt did not count; one that did stays as it is.
_MARK_APPROVAL_DECISIONS_REFUSED = """
UPDATE flotilla.approval_decisions SET outcome = 'refused', refusal = $4
WHERE tenant_id = $1 AND approval_id = $2 AND attempt_id = $3 AND outcome = 'attempted'
"""


class DecisionRefused(HttpProblem):
    """The vote does not count; `code` says why."""

    def __init__(self, why: VoteRefusal) -> None:
        super().__init__(REFUSAL_STATUS[why.type], why.message)
        self.code = snake_case(why.type)


@dataclass(frozen=True, slots=True)
class _Vote:
    """One attempt on its way."""

    tenant_id: str
    attempt: DecisionRequest
    approval: Approval
    update_id: str


async def submit_vote(services: GatewayServices, tenant_id: str, attempt: DecisionRequest) -> DecisionAnswer:
    """Makes the vote; returns what it came to. Idempotency key: voter, decision, content hash and new arguments.

    Raises:
        NotFound: the tenant has no such approval.
        DecisionRefused: it does not count.
        RetryLater: no worker answered in time; the same vote again is safe.
    """
    through = await key_issuers_of_approval(services.pool, tenant_id, attempt.approval_id)
    attempt = replace(attempt, asked_through=through)
    async with recording_transaction(services.pool, tenant_id, attempt.approval_id) as connection:
        vote = await _recorded(connection, services.current_policy, tenant_id, attempt)
    if isinstance(vote, DecisionAnswer):
        return vote
    answer = await _send(services.temporal, vote)
    if isinstance(answer, VoteRefusal):
        await _record_refusal(services.pool, vote, answer)
        if answer.type == "NotAPerson":
            IMPERSONATIONS_REFUSED.labels("vote").inc()
        raise DecisionRefused(answer)
    return answer


async def _recorded(
    connection: Connection, policy: ApprovalPolicy, tenant_id: str, attempt: DecisionRequest
) -> _Vote | DecisionAnswer:
    approval = await get_approval(connection, policy, tenant_id, attempt.approval_id)
    issued_by = await key_issuers_of_subject(connection, tenant_id, attempt.subject)
    attempt = replace(attempt, issued_by=issued_by, args=_normalized(approval, attempt))
    edited = content_hash(approval.action, attempt.args) if attempt.args is not None else ""
    update_id = decision_update_id(attempt.approval_id, attempt.subject, attempt.decision, attempt.content_hash, edited)
    answered = await connection.fetchval(_SELECT_ANSWERED_APPROVAL_DECISIONS, tenant_id, attempt.approval_id, update_id)
    if answered is not None:
        return from_json(answered, DecisionAnswer)
    stored = await seal_columns(
        connection,
        tenant_id,
        approval.session_id,
        DECISIONS,
        attempt.attempt_id,
        reason=attempt.reason,
        args=to_json(attempt.args).decode() if attempt.args is not None else None,
    )
    await connection.execute(
        _INSERT_APPROVAL_DECISIONS,
        tenant_id,
        attempt.approval_id,
        attempt.attempt_id,
        update_id,
        attempt.subject,
        attempt.decision,
        attempt.content_hash,
        stored["reason"],
        stored["args"],
        approval.policy_version,
    )
    event = vote_attempted_event(attempt, approval.policy_version)
    await append(connection, tenant_id, approval.session_id, [event])
    return _Vote(tenant_id, attempt, approval, _sent_as(update_id, attempt))


def _sent_as(update_id: str, attempt: DecisionRequest) -> str:
    """Return the Update's id. A signature that is refused must not refuse the next one, which may hold."""
    if attempt.proof is None:
        return update_id
    return hashlib.sha256(update_id.encode() + to_json(attempt.proof.vote)).hexdigest()


def _normalized(approval: Approval, attempt: DecisionRequest) -> JsonObject | None:
    """The arguments of an edit as they would be executed. Wrong ones go on as they are: the workflow refuses them, and
    the refusal is recorded."""
    if attempt.args is None or approval.task_id is not None:
        return attempt.args
    try:
        return normalize_args_if_known(approval.action, attempt.args)
    except Invalid:
        return attempt.args


async def _send(temporal: TemporalGateway, vote: _Vote) -> DecisionAnswer | VoteRefusal:
    approval_id = vote.approval.approval_id
    handle = await temporal.workflow_handle(vote.approval.workflow_id)
    try:
        answer: DecisionAnswer = await handle.execute_update(
            DECIDE_UPDATE,
            vote.attempt,
            id=vote.update_id,
            result_type=DecisionAnswer,
            rpc_timeout=ANSWER_TIMEOUT,
        )
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        raise RetryLater(f"no worker answered for approval {approval_id}: vote again, it counts once") from error
    except WorkflowUpdateFailedError as error:
        return _refusal_of(error)
    except RPCError as error:
        cause = error_from_temporal(error, vote.approval.workflow_id)
        if isinstance(cause, NotFound):
            return _over(vote.approval)
        raise cause from error
    return answer


def _over(approval: Approval) -> VoteRefusal:
    if approval.status == "timeout":
        return VoteRefusal("Late", f"the deadline was {approval.deadline_at.isoformat()}")
    return VoteRefusal("AlreadyDecided", f"approval {approval.approval_id} is over: {approval.status}")


def _refusal_of(error: WorkflowUpdateFailedError) -> VoteRefusal:
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.type in get_args(RefusalType):
        return VoteRefusal(next(kind for kind in get_args(RefusalType) if kind == cause.type), cause.message)
    if isinstance(cause, ApplicationError) and cause.type == "AcceptedUpdateCompletedWorkflow":
        return VoteRefusal("AlreadyDecided", "the workflow is over")
    raise error


async def _record_refusal(pool: Pool, vote: _Vote, why: VoteRefusal) -> None:
    async with recording_transaction(pool, vote.tenant_id, vote.attempt.approval_id) as connection:
        await connection.execute(
            _MARK_APPROVAL_DECISIONS_REFUSED,
            vote.tenant_id,
            vote.attempt.approval_id,
            vote.attempt.attempt_id,
            why.type,
        )
        event = vote_refused_event(vote.attempt, why, vote.approval.policy_version)
        await append(connection, vote.tenant_id, vote.approval.session_id, [event])
