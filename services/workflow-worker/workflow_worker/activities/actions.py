"""A governed action from analysis to its end: the row `actions` and its session events, in one transaction each."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import httpx
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.actions import ActionContext
from flotilla.actions.arguments import normalize_action_args
from flotilla.approvals.events import action_submitted_event, make_action_event
from flotilla.approvals.policy import PolicySource
from flotilla.config.signing import Signer
from flotilla.contracts.approvals import ApprovalRequirement, content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Refused
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.names import action_workflow_id
from flotilla.contracts.requests import ActionRequest
from flotilla.encryption.tables import ACTIONS, EXECUTIONS
from flotilla.eventstore.sessions import ensure_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, seal_columns, tenant_transaction
from flotilla.votes.errors import Unproven
from flotilla.votes.roots import VoteRoots
from workflow_worker.actions.registry import ActionHandlerRegistry
from workflow_worker.activities.signatures.actions import (
    ANALYZE_ACTION,
    ASSESS_EDIT,
    CHECK_VOTE,
    CHECK_VOTES,
    EXECUTE_ACTION,
    FINISH_ACTION,
    RISK_REVIEW_ATTEMPTS,
    ActionExecution,
    CheckedVote,
    ExecutionResult,
    FinishedAction,
    VoteCheck,
)
from workflow_worker.activities.signed_votes import SignedVoteChecker
from workflow_worker.risk_review import RiskReviewer

ACTIVITY_HEARTBEAT_S = 3.0
log = structlog.get_logger(__name__)

AGENT_SOURCE_PREFIX = "/agents/"
# Who was given the task, by whom; tasks of former versions of the worker have no delegation on record.
_SELECT_DELEGATION = """
SELECT t.agent, t.session_id, coalesce(d.principal, '') AS principal, d.task_id IS NOT NULL AS is_on_record
FROM flotilla.agent_tasks AS t LEFT JOIN flotilla.delegations AS d USING (tenant_id, task_id)
WHERE t.tenant_id = $1 AND t.task_id = $2 ORDER BY d.attempt DESC NULLS LAST LIMIT 1
"""
# For a workflow that was started without the gateway.
_INSERT_ACTION = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING action_id
"""
_STORE_ANALYSIS = """
UPDATE flotilla.actions SET status = 'running', risk_level = $3, approval_status = $4, current_step = $5
WHERE tenant_id = $1 AND action_id = $2 AND status = 'pending' RETURNING action_id
"""
_SELECT_APPROVAL = """
SELECT 1 FROM flotilla.approvals
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'approved' AND content_hash = $3
"""
# Claims the execution; a repetition meets its own row.
_INSERT_EXECUTION = """
INSERT INTO flotilla.action_executions (tenant_id, idempotency_key, action_id, action, content_hash)
VALUES ($1, $2, $2, $3, $4) ON CONFLICT DO NOTHING
"""
_SELECT_EXECUTION = """
SELECT content_hash, result, finished_at FROM flotilla.action_executions WHERE tenant_id = $1 AND idempotency_key = $2
"""
_STORE_EXECUTION_RESULT = """
UPDATE flotilla.action_executions SET result = $3, finished_at = now()
WHERE tenant_id = $1 AND idempotency_key = $2 AND finished_at IS NULL
"""
_MARK_EXECUTING = """
UPDATE flotilla.actions SET status = 'running', current_step = 'execute_action' WHERE tenant_id = $1 AND action_id = $2
"""
_FINISH_ACTION = """
UPDATE flotilla.actions SET status = $3, current_step = 'finished', approval_status = $4, result = $5, error = $6,
    args = $7, finished_at = now()
WHERE tenant_id = $1 AND action_id = $2 AND finished_at IS NULL RETURNING action_id
"""
_CLOSE_LOST_ACTION = """
UPDATE flotilla.actions SET status = 'cancelled', current_step = 'finished', finished_at = now(),
    approval_status = CASE WHEN approval_status = 'pending' THEN 'cancelled' ELSE approval_status END
WHERE tenant_id = $1 AND action_id = $2 AND finished_at IS NULL RETURNING session_id
"""
_STORE_ACTION_ERROR = "UPDATE flotilla.actions SET error = $3 WHERE tenant_id = $1 AND action_id = $2"
_CLOSE_LOST_VOTE = """
UPDATE flotilla.approvals SET status = 'cancelled', decided_at = now()
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending'
"""
_STOP_WEBHOOKS = """
UPDATE flotilla.webhook_deliveries SET status = 'failed', last_error = coalesce(last_error, 'the vote ended first')
WHERE tenant_id = $1 AND approval_id = $2 AND status = 'pending'
"""


class ActionActivities:
    """The activities that keep `flotilla.actions`."""

    def __init__(
        self,
        pool: Pool,
        policy: PolicySource,
        registry: ActionHandlerRegistry,
        http: httpx.AsyncClient,
        *,
        allowed_hosts: tuple[str, ...] = (),
        risk_review: RiskReviewer | None = None,
        signer: Signer,
        roots: VoteRoots | None = None,
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._registry = registry
        self._http = http
        self._allowed_hosts = allowed_hosts
        self._risk_review = risk_review
        self._votes = SignedVoteChecker(pool, policy, roots or VoteRoots(), signer)

    @activity.defn(name=ANALYZE_ACTION)
    async def analyze_action(self, request: ActionRequest) -> ApprovalRequirement:
        """What policy (and the model, where one reviews) asks for. Idempotency key: (tenant, action id).

        Raises:
            ApplicationError: `Invalid`: no such action, or arguments that it does not take.
        """
        requirement = await self._assess_risk(request)
        async with tenant_transaction(self._pool, request.tenant_id) as connection:
            await _check_agent_may_request(connection, request)
            await _store_analysis(connection, replace(request, args=requirement.args or {}), requirement)
        return requirement

    @activity.defn(name=ASSESS_EDIT)
    async def assess_edit(self, request: ActionRequest) -> ApprovalRequirement:
        """Return what policy (and the model) asks for edited arguments; changes nothing.

        Raises:
            ApplicationError: `Invalid`: arguments that the action does not take.
        """
        return await self._assess_risk(request)

    async def _assess_risk(self, request: ActionRequest) -> ApprovalRequirement:
        if not request.task_id:
            with _make_refusals_non_retryable():
                request = replace(request, args=normalize_action_args(request.action, request.args))
        policy = self._policy.current_policy
        assessment = policy.assess_risk(request.action, request.args, request.risk_level)
        if self._risk_review is not None:
            last = activity.info().attempt >= RISK_REVIEW_ATTEMPTS
            assessment = await self._risk_review.raise_risk_if_needed(request, assessment, last_attempt=last)
        return replace(policy.approval_requirement(request.action, assessment), args=request.args)

    @activity.defn(name=CHECK_VOTE)
    async def check_vote(self, check: VoteCheck) -> CheckedVote:
        """Return whether the voter's own signature lets the attempt count. Idempotency key: the attempt's id."""
        return await self._votes.check_attempt(check)

    @activity.defn(name=CHECK_VOTES)
    async def check_votes(self, execution: ActionExecution) -> None:
        """Wait until the log has the signed votes that `execute_action` will ask for; changes nothing.

        Raises:
            ApplicationError: `NotApproved`: they do not hold.
            RetryLater: the log has not arrived yet.
        """
        await self._check_signed_votes(execution)

    async def _check_signed_votes(self, execution: ActionExecution) -> None:
        try:
            await self._votes.check_quorum(execution)
        except Unproven as error:
            raise _not_approved_error(execution, str(error)) from error

    @activity.defn(name=EXECUTE_ACTION)
    async def execute_action(self, execution: ActionExecution) -> ExecutionResult:
        """Runs the action's handler on exactly what was approved. Idempotency key: (tenant, action id).

        Raises:
            ApplicationError: `NotApproved`, or the handler's refusal: never retried.
            RetryLater: what the handler needs is away.
        """
        stored = await self._claim_execution(execution)
        if stored is not None:
            return stored
        context = ActionContext(
            tenant_id=execution.key.tenant_id,
            session_id=execution.key.session_id,
            action_id=execution.key.action_id,
            requested_by=execution.requested_by,
            idempotency_key=execution.key.action_id,
            pool=self._pool,
            http=self._http,
            allowed_hosts=self._allowed_hosts,
        )
        with _make_refusals_non_retryable():
            async with _send_heartbeats():
                value: JsonValue = await self._registry.run_action_handler(context, execution.action, execution.args)
        async with tenant_transaction(self._pool, execution.key.tenant_id) as connection:
            key = execution.key
            stored_value = await seal_columns(
                connection, key.tenant_id, key.session_id, EXECUTIONS, key.action_id, result=to_json(value).decode()
            )
            await connection.execute(_STORE_EXECUTION_RESULT, key.tenant_id, key.action_id, stored_value["result"])
        return ExecutionResult(value=value)

    @activity.defn(name=FINISH_ACTION)
    async def finish_action(self, finished: FinishedAction) -> None:
        """Closes the action's row; does nothing if it is closed. Idempotency key: (tenant, action id)."""
        key, state = finished.key, finished.state
        error = None if state.error is None else to_json({"message": state.error}).decode()
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            stored = await seal_columns(
                connection,
                key.tenant_id,
                key.session_id,
                ACTIONS,
                key.action_id,
                result=to_json(state.result).decode(),
                error=error,
                args=to_json(state.args).decode(),
            )
            closed = await connection.fetchval(
                _FINISH_ACTION,
                key.tenant_id,
                key.action_id,
                state.status,
                state.approval_status,
                stored["result"],
                stored["error"],
                stored["args"],
            )
            if closed is None:
                return
            await connection.execute(_CLOSE_LOST_VOTE, key.tenant_id, key.action_id)
            await connection.execute(_STOP_WEBHOOKS, key.tenant_id, key.action_id)
            if (
                state.status == "approved"
            ):  # an agent's call: the vote's verdict is in the log, and the tool has not run
                return
            details = {"status": state.status, "content_hash": state.content_hash, "error": state.error}
            event = make_action_event(f"action_{state.status}", key.action_id, details)
            await append(connection, key.tenant_id, key.session_id, [event])
        log.info("action_finished", action_id=key.action_id, status=state.status)

    async def close_lost_action(self, tenant_id: str, action_id: str, why: str) -> None:
        """Closes an action, and its vote, whose workflow is gone: nobody else will."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            session_id = await connection.fetchval(_CLOSE_LOST_ACTION, tenant_id, action_id)
            if session_id is None:
                return
            error = to_json({"message": why}).decode()
            stored = await seal_columns(connection, tenant_id, session_id, ACTIONS, action_id, error=error)
            await connection.execute(_STORE_ACTION_ERROR, tenant_id, action_id, stored["error"])
            await connection.execute(_CLOSE_LOST_VOTE, tenant_id, action_id)
            await connection.execute(_STOP_WEBHOOKS, tenant_id, action_id)
            event = make_action_event("action_cancelled", action_id, {"status": "cancelled", "error": why})
            await append(connection, tenant_id, session_id, [event])

    async def _claim_execution(self, execution: ActionExecution) -> ExecutionResult | None:
        """Checks the approval against what would be executed, claims the execution; its result, if there is one."""
        key = execution.key
        if content_hash(execution.action, execution.args) != execution.content_hash:
            raise _not_approved_error(execution, "what would be executed is not what was approved")
        await self._check_signed_votes(execution)
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            if execution.approval_required or self._votes.current_requirement(execution).required:
                approved = await connection.fetchval(
                    _SELECT_APPROVAL, key.tenant_id, key.action_id, execution.content_hash
                )
                if approved is None:
                    raise _not_approved_error(execution, "no approval of exactly this is stored")
            await connection.execute(_MARK_EXECUTING, key.tenant_id, key.action_id)
            await connection.execute(
                _INSERT_EXECUTION, key.tenant_id, key.action_id, execution.action, execution.content_hash
            )
            found = await connection.fetchrow(_SELECT_EXECUTION, key.tenant_id, key.action_id)
            named = found and {**found, "action_id": key.action_id, "session_id": key.session_id}
            row = named and await open_row(connection, key.tenant_id, EXECUTIONS, named)
        if row is None or row["content_hash"] != execution.content_hash:
            raise _not_approved_error(execution, "this action's id has executed something else")
        return ExecutionResult(value=json.loads(row["result"])) if row["finished_at"] else None


async def _check_agent_may_request(connection: Connection, request: ActionRequest) -> None:
    """An agent asks for its own gated tools, in a task that was delegated to it; for nothing else."""
    agent = request.requested_by.removeprefix(AGENT_SOURCE_PREFIX)
    if not request.task_id:
        if agent != request.requested_by:
            raise _foreign_tool_error(request, "it belongs to no task")
        return
    row = await connection.fetchrow(_SELECT_DELEGATION, request.tenant_id, request.task_id)
    if row is None or row["agent"] != agent or not request.action.startswith(f"{agent}."):
        raise _foreign_tool_error(request, "neither the task nor the tool is the agent's")
    if row["session_id"] != request.session_id or (row["is_on_record"] and row["principal"] != request.on_behalf_of):
        raise _foreign_tool_error(request, "the task has another session, or works for somebody else")


def _foreign_tool_error(request: ActionRequest, why: str) -> ApplicationError:
    message = f"action {request.action_id}: {request.requested_by} may not ask for {request.action}: {why}"
    return ApplicationError(message, type="Forbidden", non_retryable=True)


async def _store_analysis(connection: Connection, request: ActionRequest, requirement: ApprovalRequirement) -> None:
    tenant_id, action_id = request.tenant_id, request.action_id
    await ensure_session(connection, tenant_id, request.session_id, request.on_behalf_of or request.requested_by)
    workflow_id = activity.info().workflow_id or action_workflow_id(action_id)
    stored = await seal_columns(
        connection,
        tenant_id,
        request.session_id,
        ACTIONS,
        action_id,
        description=request.description,
        args=to_json(request.args).decode(),
        request=to_json(request).decode(),
    )
    added = await connection.fetchval(
        _INSERT_ACTION,
        tenant_id,
        action_id,
        request.session_id,
        workflow_id,
        request.action,
        stored["description"],
        stored["args"],
        requirement.risk_level,
        request.requested_by,
        stored["request"],
    )
    approval, step = (
        ("pending", "send_approval_request") if requirement.required else ("not_required", "execute_action")
    )
    first = await connection.fetchval(_STORE_ANALYSIS, tenant_id, action_id, requirement.risk_level, approval, step)
    if first is None:
        return
    details = {
        "action": request.action,
        "content_hash": content_hash(request.action, request.args),
        "risk_level": requirement.risk_level,
        "reasons": requirement.reasons,
        "policy_version": requirement.policy_version,
    }
    events = [action_submitted_event(request, requirement.risk_level)] if added else []
    events.append(make_action_event("action_analyzed", action_id, details))
    await append(connection, tenant_id, request.session_id, events)


def _not_approved_error(execution: ActionExecution, why: str) -> ApplicationError:
    return ApplicationError(f"action {execution.key.action_id}: {why}", type="NotApproved", non_retryable=True)


@contextmanager
def _make_refusals_non_retryable() -> Iterator[None]:
    """Turns an error that no repetition can fix into one that Temporal does not retry."""
    try:
        yield
    except Refused as error:
        raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error


@asynccontextmanager
async def _send_heartbeats() -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(ACTIVITY_HEARTBEAT_S)

    task = asyncio.create_task(beat(), name="heartbeats")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
