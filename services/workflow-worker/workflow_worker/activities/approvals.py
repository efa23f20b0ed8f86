"""The inbox: requests, votes, verdicts; each change of a row with its session events in one transaction."""

from datetime import datetime

from temporalio import activity

from flotilla.approvals.ballot import Ballot
from flotilla.approvals.events import (
    WORKFLOW_SOURCE,
    make_action_event,
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
    ActionReference,
    ApprovalRequest,
    CountedDecision,
    RefusedDecision,
    ReviewerQuery,
    ReviewerRoles,
    VoteClosure,
    WebhookBatch,
)
from workflow_worker.activities.webhooks import queue_webhooks

_INSERT_APPROVAL = """
INSERT INTO flotilla.approvals (
    tenant_id, approval_id, session_id, workflow_id, run_id, task_id, action, description, args, content_hash,
    risk_level, reasons, requested_by, on_behalf_of, requirement, policy_version, quorum, deadline_at, reminder_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
ON CONFLICT DO NOTHING RETURNING approval_id
"""
_MARK_AWAITING_APPROVAL = """
UPDATE flotilla.actions SET status = 'awaiting_approval', current_step = 'wait_for_approval',
    approval_status = 'pending'
WHERE tenant_id = $1 AND action_id = $2 AND finished_at IS NULL
"""
_MARK_REMINDED = """
UPDATE flotilla.approvals SET reminded_at = now()
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending' AND reminded_at IS NULL RETURNING deadline_at
"""
# Where in the log the vote is.
_STORE_DECISION_EVENT_SEQ = """
UPDATE flotilla.approval_decisions SET event_seq = $4 WHERE tenant_id = $1 AND approval_id = $2 AND attempt_id = $3
"""
_SELECT_PERSON_ROLES = "SELECT roles FROM flotilla.people WHERE tenant_id = $1 AND subject = $2"
# The attempt's row comes from the gateway, or is made here for a signal. A decision counts once.
_INSERT_COUNTED_DECISION = """
INSERT INTO flotilla.approval_decisions AS d (
    tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash, reason, args, authenticated,
    policy_version, outcome, answer)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'counted', $12)
ON CONFLICT (tenant_id, approval_id, attempt_id) DO UPDATE SET outcome = 'counted', answer = EXCLUDED.answer
    WHERE d.outcome = 'attempted'
RETURNING attempt_id
"""
_INSERT_REFUSED_DECISION = """
INSERT INTO flotilla.approval_decisions (
    tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash, reason, args, authenticated,
    policy_version, outcome, refusal)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'refused', $12)
ON CONFLICT DO NOTHING RETURNING attempt_id
"""
# What the inbox shows of the vote.
_UPDATE_APPROVAL = """
UPDATE flotilla.approvals SET status = $3, args = $4, content_hash = $5, votes = $6, requirement = $7, quorum = $8,
    risk_level = $9, reasons = $10,
    decided_at = CASE WHEN $3 = 'pending' THEN NULL ELSE now() END
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending' RETURNING approval_id
"""
_UPDATE_ACTION_APPROVAL_STATUS = """
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
        key = ActionReference(tenant_id=action.tenant_id, action_id=action.action_id, session_id=action.session_id)
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            added = await connection.fetchval(_INSERT_APPROVAL, *await _approval_columns(connection, request))
            ids = await self._queue_webhooks(connection, key, "approval.requested", _approval_as_published(request))
            if added is not None:
                await connection.execute(_MARK_AWAITING_APPROVAL, key.tenant_id, key.action_id)
                await _append_events(
                    connection, key, [make_action_event("approval_requested", key.action_id, _approval_terms(request))]
                )
        return WebhookBatch(key=key, delivery_ids=ids)

    @activity.defn(name=REMIND)
    async def remind(self, key: ActionReference) -> WebhookBatch:
        """Reminds, if the vote is still open. Idempotency key: (tenant, action id)."""
        ids: list[str] = []
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            deadline: datetime | None = await connection.fetchval(_MARK_REMINDED, key.tenant_id, key.action_id)
            if deadline is not None:
                ids = await self._queue_webhooks(
                    connection, key, "approval.reminder", {"approval_id": key.action_id, "deadline": deadline}
                )
                await _append_events(
                    connection, key, [make_action_event("approval_reminded", key.action_id, {"deadline": deadline})]
                )
        return WebhookBatch(key=key, delivery_ids=ids)

    @activity.defn(name=LOOK_UP_REVIEWER)
    async def look_up_reviewer(self, query: ReviewerQuery) -> ReviewerRoles:
        """The roles of the person a signal names: the signal itself proves nothing."""
        async with tenant_transaction(self._pool, query.tenant_id) as connection:
            roles = await connection.fetchval(_SELECT_PERSON_ROLES, query.tenant_id, query.subject)
        return ReviewerRoles(is_person=roles is not None, roles=list(roles or []))

    @activity.defn(name=RECORD_DECISION)
    async def record_decision(self, decision: CountedDecision) -> None:
        """Stores a counted decision with its answer. Idempotency key: (tenant, approval id, attempt id)."""
        key, attempt, ballot = decision.key, decision.attempt, decision.ballot
        version = ballot.requirement.policy_version
        answer = to_json(ballot.answer_to_voter(attempt)).decode()
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            columns = await _decision_columns(connection, key, attempt, decision.update_id, version)
            if await connection.fetchval(_INSERT_COUNTED_DECISION, *columns, answer) is None:
                return
            await _update_approval_row(connection, key, ballot)
            # A signal has no gateway that recorded the attempt before.
            attempted = [] if attempt.authenticated else [vote_attempted_event(attempt, version, WORKFLOW_SOURCE)]
            events = [*attempted, *vote_counted_events(attempt, ballot)]
            appended = await append(connection, key.tenant_id, key.session_id, events)
            seq = appended.first_seq + len(attempted)
            await connection.execute(_STORE_DECISION_EVENT_SEQ, key.tenant_id, key.action_id, attempt.attempt_id, seq)
        metrics.APPROVAL_DECISIONS.labels(attempt.decision).inc()

    @activity.defn(name=RECORD_REFUSAL)
    async def record_refusal(self, refused: RefusedDecision) -> None:
        """Stores an attempt by signal that did not count. Idempotency key: (tenant, approval id, attempt id)."""
        key, attempt, version = refused.key, refused.attempt, refused.policy_version
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            columns = await _decision_columns(connection, key, attempt, refused.update_id, version)
            if await connection.fetchval(_INSERT_REFUSED_DECISION, *columns, refused.refusal.type) is not None:
                events = [
                    vote_attempted_event(attempt, version, WORKFLOW_SOURCE),
                    vote_refused_event(attempt, refused.refusal, version, WORKFLOW_SOURCE),
                ]
                await _append_events(connection, key, events)

    @activity.defn(name=RECORD_VERDICT)
    async def record_verdict(self, verdict: VoteClosure) -> None:
        """Closes a vote that ended by its deadline or a cancellation. Idempotency key: (tenant, approval id)."""
        async with tenant_transaction(self._pool, verdict.key.tenant_id) as connection:
            if await _update_approval_row(connection, verdict.key, verdict.ballot):
                await _append_events(connection, verdict.key, [vote_ended_event(verdict.ballot)])

    async def _queue_webhooks(self, connection: Connection, key: ActionReference, kind: str, data: object) -> list[str]:
        body = to_json({"type": kind, "data": data})
        return await queue_webhooks(connection, key, kind, self._webhook_urls, body)


async def _update_approval_row(connection: Connection, key: ActionReference, ballot: Ballot) -> bool:
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
        _UPDATE_APPROVAL,
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
    await connection.execute(_UPDATE_ACTION_APPROVAL_STATUS, key.tenant_id, key.action_id, ballot.status)
    return shown is not None


async def _append_events(connection: Connection, key: ActionReference, events: list[AgentStateEvent]) -> None:
    await append(connection, key.tenant_id, key.session_id, events)


def _content_hash_of(request: ApprovalRequest) -> str:
    return content_hash(request.action.action, request.action.args)


def _approval_terms(request: ApprovalRequest) -> dict[str, object]:
    return {
        "content_hash": _content_hash_of(request),
        "risk_level": request.requirement.risk_level,
        "deadline": request.deadline,
        "policy_version": request.requirement.policy_version,
    }


def _approval_as_published(request: ApprovalRequest) -> dict[str, object]:
    action, requirement = request.action, request.requirement
    return {
        "approval_id": action.action_id,
        "action": action.action,
        "description": action.description,
        "args": action.args,
        "content_hash": _content_hash_of(request),
        "risk_level": requirement.risk_level,
        "reasons": requirement.reasons,
        "requested_by": action.requested_by,
        "roles": requirement.roles,
        "quorum": requirement.quorum,
        "deadline": request.deadline,
    }


async def _approval_columns(connection: Connection, request: ApprovalRequest) -> tuple[object, ...]:
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
        _content_hash_of(request),
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


async def _decision_columns(
    connection: Connection, key: ActionReference, attempt: DecisionRequest, update_id: str, policy_version: str
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
