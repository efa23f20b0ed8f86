"""The inbox: requests, votes, verdicts; each change of a row with its session events in one transaction."""

from datetime import datetime

from temporalio import activity

from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import (
    WORKFLOW_SOURCE,
    action_event,
    vote_attempted_event,
    vote_counted_events,
    vote_ended_event,
    vote_refused_event,
)
from flotilla.contracts.approvals import DecisionRequest, content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption.tables import APPROVALS, DECISIONS
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, seal_columns, tenant_transaction
from flotilla.telemetry import metrics
from workflow_worker.activities.signatures.actions import (
    LOOK_UP_REVIEWER,
    RECORD_DECISION,
    RECORD_REFUSAL,
    RECORD_VERDICT,
    REMIND,
    SEND_APPROVAL_REQUEST,
    ActionRef,
    ApprovalRequest,
    CountedDecision,
    RefusedDecision,
    Reviewer,
    ReviewerQuery,
    VoteClosure,
    WebhookBatch,
)
from workflow_worker.activities.webhooks import queue_webhooks

_ADD = """
INSERT INTO flotilla.approvals (
    tenant_id, approval_id, session_id, workflow_id, run_id, task_id, action, description, args, content_hash,
    risk_level, reasons, requested_by, on_behalf_of, requirement, policy_version, quorum, deadline_at, reminder_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT DO NOTHING RETURNING approval_id
"""
_AWAIT = """
UPDATE flotilla.actions SET status = 'awaiting_approval', current_step = 'wait_for_approval',
    approval_status = 'pending'
WHERE tenant_id = $1 AND action_id = $2 AND finished_at IS NULL
"""
_REMINDED = """
UPDATE flotilla.approvals SET reminded_at = now()
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending' AND reminded_at IS NULL RETURNING deadline_at
"""
# Where in the log the vote is.
_PLACE = """
UPDATE flotilla.approval_decisions SET event_seq = $4 WHERE tenant_id = $1 AND approval_id = $2 AND attempt_id = $3
"""
_PERSON = "SELECT roles FROM flotilla.people WHERE tenant_id = $1 AND subject = $2"
# The attempt's row comes from the gateway, or is made here for a signal. A decision counts once.
_COUNT = """
INSERT INTO flotilla.approval_decisions AS d (
    tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash, reason, args, authenticated,
    policy_version, outcome, answer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'counted', $12)
ON CONFLICT (tenant_id, approval_id, attempt_id) DO UPDATE SET outcome = 'counted', answer = EXCLUDED.answer
    WHERE d.outcome = 'attempted'
RETURNING attempt_id
"""
_REFUSE = """
INSERT INTO flotilla.approval_decisions (
    tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash, reason, args, authenticated,
    policy_version, outcome, refusal)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'refused', $12)
ON CONFLICT DO NOTHING RETURNING attempt_id
"""
# What the inbox shows of the vote.
_SHOW = """
UPDATE flotilla.approvals SET status = $3, args = $4, content_hash = $5, votes = $6, requirement = $7, quorum = $8,
    risk_level = $9, reasons = $10,
    decided_at = CASE WHEN $3 = 'pending' THEN NULL ELSE now() END
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending' RETURNING approval_id
"""
_SHOW_ACTION = """
UPDATE flotilla.actions SET approval_status = $3 WHERE tenant_id = $1 AND action_id = $2
"""


class ApprovalActivities:
    """The activities around a vote."""

    def __init__(self, pool: Pool, webhook_urls: tuple[str, ...]) -> None:
        self._pool = pool
        self._webhook_urls = webhook_urls

    @activity.defn(name=SEND_APPROVAL_REQUEST)
    async def send_approval_request(self, request: ApprovalRequest) -> WebhookBatch:
        """Puts the action into the inbox and queues its webhooks. Idempotency key: (tenant, action id)."""
        action = request.action
        key = ActionRef(tenant_id=action.tenant_id, action_id=action.action_id, session_id=action.session_id)
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            added = await connection.fetchval(_ADD, *await _columns(connection, request))
            ids = await self._queue(connection, key, "approval.requested", _public(request))
            if added is not None:
                await connection.execute(_AWAIT, key.tenant_id, key.action_id)
                await _append(connection, key, [action_event("approval_requested", key.action_id, _terms(request))])
        return WebhookBatch(key=key, delivery_ids=ids)

    @activity.defn(name=REMIND)
    async def remind(self, key: ActionRef) -> WebhookBatch:
        """Reminds, if the vote is still open. Idempotency key: (tenant, action id)."""
        ids: list[str] = []
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            deadline: datetime | None = await connection.fetchval(_REMINDED, key.tenant_id, key.action_id)
            if deadline is not None:
                ids = await self._queue(
                    connection, key, "approval.reminder", {"approval_id": key.action_id, "deadline": deadline}
                )
                await _append(
                    connection, key, [action_event("approval_reminded", key.action_id, {"deadline": deadline})]
                )
        return WebhookBatch(key=key, delivery_ids=ids)

    @activity.defn(name=LOOK_UP_REVIEWER)
    async def look_up_reviewer(self, query: ReviewerQuery) -> Reviewer:
        """The roles of the person a signal names: the signal itself proves nothing."""
        async with tenant_transaction(self._pool, query.tenant_id) as connection:
            roles = await connection.fetchval(_PERSON, query.tenant_id, query.subject)
        return Reviewer(is_person=roles is not None, roles=list(roles or []))

    @activity.defn(name=RECORD_DECISION)
    async def record_decision(self, decision: CountedDecision) -> None:
        """Stores a counted decision with its answer. Idempotency key: (tenant, approval id, attempt id)."""
        key, attempt, ballot = decision.key, decision.attempt, decision.ballot
        version = ballot.requirement.policy_version
        answer = to_json(ballot.answer_to_voter(attempt)).decode()
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            columns = await _columns_of_attempt(connection, key, attempt, decision.update_id, version)
            if await connection.fetchval(_COUNT, *columns, answer) is None:
                return
            await _show(connection, key, ballot)
            # A signal has no gateway that recorded the attempt before.
            attempted = [] if attempt.authenticated else [vote_attempted_event(attempt, version, WORKFLOW_SOURCE)]
            events = [*attempted, *vote_counted_events(attempt, ballot)]
            appended = await append(connection, key.tenant_id, key.session_id, events)
            seq = appended.first_seq + len(attempted)
            await connection.execute(_PLACE, key.tenant_id, key.action_id, attempt.attempt_id, seq)
        metrics.APPROVAL_DECISIONS.labels(attempt.decision).inc()

    @activity.defn(name=RECORD_REFUSAL)
    async def record_refusal(self, refused: RefusedDecision) -> None:
        """Stores an attempt by signal that did not count. Idempotency key: (tenant, approval id, attempt id)."""
        key, attempt, version = refused.key, refused.attempt, refused.policy_version
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            columns = await _columns_of_attempt(connection, key, attempt, refused.update_id, version)
            if await connection.fetchval(_REFUSE, *columns, refused.refusal.type) is not None:
                events = [
                    vote_attempted_event(attempt, version, WORKFLOW_SOURCE),
                    vote_refused_event(attempt, refused.refusal, version, WORKFLOW_SOURCE),
                ]
                await _append(connection, key, events)

    @activity.defn(name=RECORD_VERDICT)
    async def record_verdict(self, verdict: VoteClosure) -> None:
        """Closes a vote that ended by its deadline or a cancellation. Idempotency key: (tenant, approval id)."""
        async with tenant_transaction(self._pool, verdict.key.tenant_id) as connection:
            if await _show(connection, verdict.key, verdict.ballot):
                await _append(connection, verdict.key, [vote_ended_event(verdict.ballot)])

    async def _queue(self, connection: Connection, key: ActionRef, kind: str, data: object) -> list[str]:
        body = to_json({"type": kind, "data": data})
        return await queue_webhooks(connection, key, kind, self._webhook_urls, body)


async def _show(connection: Connection, key: ActionRef, ballot: Ballot) -> bool:
    stored = await seal_columns(
        connection,
        key.tenant_id,
        key.session_id,
        APPROVALS,
        key.action_id,
        args=to_json(ballot.args).decode(),
        votes=to_json(ballot.votes).decode(),
        requirement=to_json(ballot.requirement).decode(),
        reasons=ballot.requirement.reasons,
    )
    shown = await connection.fetchval(
        _SHOW,
        key.tenant_id,
        key.action_id,
        ballot.status,
        stored["args"],
        ballot.content_hash,
        stored["votes"],
        stored["requirement"],
        ballot.requirement.quorum,
        ballot.requirement.risk_level,
        stored["reasons"],
    )
    await connection.execute(_SHOW_ACTION, key.tenant_id, key.action_id, ballot.status)
    return shown is not None


async def _append(connection: Connection, key: ActionRef, events: list[AgentStateEvent]) -> None:
    await append(connection, key.tenant_id, key.session_id, events)


def _hash(request: ApprovalRequest) -> str:
    return content_hash(request.action.action, request.action.args)


def _terms(request: ApprovalRequest) -> dict[str, object]:
    return {
        "content_hash": _hash(request),
        "risk_level": request.requirement.risk_level,
        "deadline": request.deadline,
        "policy_version": request.requirement.policy_version,
    }


def _public(request: ApprovalRequest) -> dict[str, object]:
    action, requirement = request.action, request.requirement
    return {
        "approval_id": action.action_id,
        "action": action.action,
        "description": action.description,
        "args": action.args,
        "content_hash": _hash(request),
        "risk_level": requirement.risk_level,
        "reasons": requirement.reasons,
        "requested_by": action.requested_by,
        "roles": requirement.roles,
        "quorum": requirement.quorum,
        "deadline": request.deadline,
    }


async def _columns(connection: Connection, request: ApprovalRequest) -> tuple[object, ...]:
    action, requirement = request.action, request.requirement
    stored = await seal_columns(
        connection,
        action.tenant_id,
        action.session_id,
        APPROVALS,
        action.action_id,
        description=action.description,
        args=to_json(action.args).decode(),
        reasons=requirement.reasons,
        requirement=to_json(requirement).decode(),
    )
    return (
        action.tenant_id,
        action.action_id,
        action.session_id,
        request.workflow_id,
        action.run_id or None,
        action.task_id or None,
        action.action,
        stored["description"],
        stored["args"],
        _hash(request),
        requirement.risk_level,
        stored["reasons"],
        action.requested_by,
        action.on_behalf_of or None,
        stored["requirement"],
        requirement.policy_version,
        requirement.quorum,
        request.deadline,
        request.reminder,
    )


async def _columns_of_attempt(
    connection: Connection, key: ActionRef, attempt: DecisionRequest, update_id: str, policy_version: str
) -> tuple[object, ...]:
    stored = await seal_columns(
        connection,
        key.tenant_id,
        key.session_id,
        DECISIONS,
        attempt.attempt_id,
        reason=attempt.reason,
        args=None if attempt.args is None else to_json(attempt.args).decode(),
    )
    return (
        key.tenant_id,
        key.action_id,
        attempt.attempt_id,
        update_id,
        attempt.subject,
        attempt.decision,
        attempt.content_hash,
        stored["reason"],
        stored["args"],
        attempt.authenticated,
        policy_version,
    )
