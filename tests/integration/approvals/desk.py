"""Submits actions and decides on them, as the gateway does."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from flotilla.approvals.policy import ApprovalPolicy, parse_policy
from flotilla.contracts.approvals import (
    APPROVE_SIGNAL,
    DECIDE_UPDATE,
    GET_STATUS_QUERY,
    ActionState,
    Decision,
    DecisionAnswer,
    DecisionRequest,
    content_hash,
    decision_update_id,
)
from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import APPROVAL_WORKFLOW, action_workflow_id
from flotilla.contracts.requests import ActionRequest, RiskLevel
from flotilla.contracts.votes import SignedVote
from flotilla.postgres import Pool, tenant_transaction
from flotilla.votes.roots import VoteRoots
from tests.support.tickets import SIGNER
from workflow_worker.actions.registry import ActionHandlerRegistry, load_action_handlers
from workflow_worker.activities.actions import ActionActivities
from workflow_worker.activities.approvals import ApprovalActivities
from workflow_worker.activities.webhooks import WebhookActivities, WebhookReceivers
from workflow_worker.settings import Settings
from workflow_worker.temporal import list_activity_methods_of, make_worker
from workflow_worker.workflows.approval import HumanInTheLoopWorkflow

POLICY = """
version = "test"
[defaults]
roles = ["approver"]
reminder_s = 3600
reason_required = ["reject"]
editable_args = ["text"]
[actions.echo]
risk = "low"
[actions.echo.high]
quorum = 2
[[actions.echo.raise_if]]
to = "high"
when = { text = ["wipe"] }
because = "it wipes"
[actions.http_request]
risk = "medium"
allow_signal = true
[actions.publish_answer]
risk = "medium"
verdict_at_deadline = "approve"
"""
ALICE, BOB, CAROL, DAVE = "alice", "bob", "carol", "dave"


class Refused(Exception):
    """The Update was refused; `args[0]` is its type."""


@dataclass
class Desk:
    """One worker and its database."""

    client: Client
    pool: Pool
    task_queue: str
    environment: WorkflowEnvironment | None = None

    async def submit(
        self, action: str = "echo", risk: RiskLevel = "medium", args: JsonObject | None = None, **more: Any
    ) -> WorkflowHandle[Any, ActionState]:
        action_id = f"action-{secrets.token_hex(4)}"
        request = ActionRequest(
            action=action,
            description="a test",
            risk_level=risk,
            requested_by=ALICE,
            args=args if args is not None else {"text": "hello"},
            action_id=action_id,
            tenant_id="acme",
            **more,
        )
        return await self.client.start_workflow(
            APPROVAL_WORKFLOW,
            request,
            id=action_workflow_id(action_id),
            task_queue=self.task_queue,
            result_type=ActionState,
        )

    async def state(self, handle: WorkflowHandle[Any, ActionState]) -> ActionState:
        state: ActionState = await handle.query(GET_STATUS_QUERY, result_type=ActionState)
        return state

    async def decide(
        self,
        handle: WorkflowHandle[Any, ActionState],
        subject: str,
        decision: Decision = "approve",
        *,
        args: JsonObject | None = None,
        seen: JsonObject | None = None,
        roles: tuple[str, ...] = ("approver",),
        reason: str | None = "because",
        is_person: bool = True,
        action: str = "echo",
        proof: SignedVote | None = None,
    ) -> DecisionAnswer:
        """Decides about what was submitted, or about the arguments `seen`.

        Raises:
            Refused: with the refusal's type.
        """
        approval_id = handle.id.removeprefix("action-")
        shown = content_hash(action, seen if seen is not None else {"text": "hello"})
        attempt = DecisionRequest(
            approval_id=approval_id,
            attempt_id=new_id(),
            subject=subject,
            roles=list(roles),
            is_person=is_person,
            decision=decision,
            content_hash=shown,
            reason=reason,
            args=args,
            proof=proof,
        )
        args_hash = content_hash("echo", args) if args is not None else ""
        try:
            answer: DecisionAnswer = await handle.execute_update(
                DECIDE_UPDATE,
                attempt,
                id=f"{decision_update_id(approval_id, subject, decision, shown, args_hash)}{_signed(proof)}",
                result_type=DecisionAnswer,
            )
        except WorkflowUpdateFailedError as error:
            raise Refused(getattr(error.cause, "type", None)) from error
        return answer

    async def signal(self, handle: WorkflowHandle[Any, ActionState], subject: str, *, approved: bool) -> None:
        await handle.signal(APPROVE_SIGNAL, args=[approved, subject])

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with tenant_transaction(self.pool, "acme") as connection:
            return await connection.fetch(query, *arguments)

    async def row(self, table: str, handle: WorkflowHandle[Any, ActionState]) -> asyncpg.Record:
        column = "approval_id" if table == "approvals" else "action_id"
        query = f"SELECT * FROM flotilla.{table} WHERE {column} = $1"
        return (await self.rows(query, handle.id.removeprefix("action-")))[0]

    async def in_inbox(self, handle: WorkflowHandle[Any, ActionState]) -> bool:
        query = "SELECT 1 FROM flotilla.approvals WHERE approval_id = $1"
        return bool(await self.rows(query, handle.id.removeprefix("action-")))

    async def changes(self, handle: WorkflowHandle[Any, ActionState]) -> list[str]:
        """What the action's session events say happened, in order."""
        return [str(event.data["change"]) for event in await self.events(handle)]

    async def events(self, handle: WorkflowHandle[Any, ActionState]) -> list[AgentEvent]:
        query = "SELECT body FROM flotilla.event_outbox WHERE session_id = $1 ORDER BY seq"
        return [decode_event(row["body"]) for row in await self.rows(query, handle.id.removeprefix("action-"))]

    async def add_person(self, subject: str, *roles: str) -> None:
        async with tenant_transaction(self.pool, "acme") as connection:
            await connection.execute(
                "INSERT INTO flotilla.people (tenant_id, subject, display_name, roles) VALUES ('acme', $1, $1, $2)",
                subject,
                list(roles),
            )


@asynccontextmanager
async def open_desk(
    client: Client,
    pool: Pool,
    task_queue: str,
    *,
    registry: ActionHandlerRegistry | None = None,
    policy: ApprovalPolicy | None = None,
    receivers: WebhookReceivers | None = None,
    hosts: tuple[str, ...] = (),
    roots: VoteRoots | None = None,
) -> AsyncIterator[Desk]:
    """A worker that does nothing but governed actions."""
    settings = Settings(
        postgres_dsn="postgresql://unused",  # type: ignore[arg-type]
        redis_url="redis://unused",  # type: ignore[arg-type]
        temporal_address="unused",
        task_queue=task_queue,
        ticket_key_file=Path("unused"),
        drain_s=1,
    )
    receivers = receivers or WebhookReceivers((), b"")
    async with httpx.AsyncClient(timeout=5) as http:
        parts = (
            ActionActivities(
                pool,
                policy or parse_policy(POLICY, "test"),
                registry or load_action_handlers(),
                http,
                allowed_hosts=hosts,
                signer=SIGNER,
                roots=roots,
            ),
            ApprovalActivities(pool, receivers.urls),
            WebhookActivities(pool, http, receivers),
        )
        methods = [method for part in parts for method in list_activity_methods_of(part)]
        worker = make_worker(client, settings, "desk", workflows=[HumanInTheLoopWorkflow], activities=methods)
        async with worker:
            yield Desk(client, pool, task_queue)


def _signed(proof: SignedVote | None) -> str:
    return "" if proof is None else f" {proof.vote.signature.value[-100:]}"


def loaded(value: str | None) -> Any:
    """A JSON column."""
    return None if value is None else json.loads(value)
