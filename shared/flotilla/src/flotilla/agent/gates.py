"""Gated tools: which calls wait for people, and the outcome of those that did.

A task that needs an approval ends its try with the failure `ApprovalRequired`; nothing is held while people decide. The
next try runs the function again from its start. A call is known again by its tool, its arguments and how often the task
made the same call before.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flotilla.agent.ports import ApprovalGate, GatedCallVerdict, IdentifiedToolCall
from flotilla.agent.proofs import GatedCallSignatureChecker
from flotilla.contracts.approvals import MAX_ARGS_BYTES, content_hash
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid, Refused
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tasks import AgentTask, ApprovalNeeded, McpCallNeeded
from flotilla.encryption import SealedTable
from flotilla.encryption.tables import ACTIONS, EXECUTIONS
from flotilla.postgres import Pool, open_rows, retry_later_if_unavailable, seal_columns, tenant_transaction

# The verdicts of a task's calls whose workflow is over; the arguments are those that were decided about.
_SELECT_VERDICTS = """
SELECT action_id, session_id, approval_status, args, error FROM flotilla.actions
WHERE tenant_id = $1 AND session_id = $2 AND request ->> 'task_id' = $3 AND finished_at IS NOT NULL
"""
_SELECT_STORED_RESULT = """
SELECT action_id, result FROM flotilla.action_executions
WHERE tenant_id = $1 AND idempotency_key = $2 AND finished_at IS NOT NULL
"""
_INSERT_RESULT = """
INSERT INTO flotilla.action_executions
    (tenant_id, idempotency_key, action_id, action, content_hash, result, finished_at)
VALUES ($1, $2, $2, $3, $4, $5, now()) ON CONFLICT DO NOTHING
"""
RERUN_ID_MARKER = ".again."
"""In the id of an approval to run a call again."""
_STATUSES_THAT_PERMIT_CALL = ("approved", "not_required")


class ApprovalPending(BaseException):
    """The task pauses here. No Exception, so that nobody takes it for a tool's failure and goes on."""


class ApprovalRefused(Refused):
    """People did not approve this call of a gated tool."""


class GatedToolCalls:
    """The gated calls of one run of a task. `verdicts` are those that there are when it starts."""

    def __init__(
        self,
        agent: str,
        task_id: str,
        gated: Mapping[str, RiskLevel],
        *,
        gate: ApprovalGate | None = None,
        verdicts: Mapping[str, GatedCallVerdict] | None = None,
    ) -> None:
        self._agent = agent
        self._task_id = task_id
        self._gated = dict(gated)
        self._gate = gate
        self._verdicts = verdicts or {}
        self.needed: list[ApprovalNeeded] = []
        """What the task waits for."""
        self.calls: list[McpCallNeeded] = []
        """Calls of MCP tools that it waits for."""

    @property
    def must_pause(self) -> bool:
        """Whether the task pauses: for people, or for calls of MCP tools."""
        return bool(self.needed or self.calls)

    def __contains__(self, tool: str) -> bool:
        return tool in self._gated

    def add_gated_tool(self, tool: str, risk: RiskLevel) -> None:
        """Gate `tool` in this run, too, with at least `risk`; the agent was made with `gates_calls=True`."""
        self._gated[tool] = risk

    def verdict_on_call(
        self, tool: str, description: str, args: JsonObject, call: IdentifiedToolCall
    ) -> tuple[str, GatedCallVerdict]:
        """The call's approval id, and its verdict. Nothing is awaited, so that calls made together pause together.

        Raises:
            ApprovalPending: there is none yet; the call is among those that the task waits for.
            ApprovalRefused: it may not be made.
            Invalid: its arguments are too large to ask about.
        """
        approval_id = self._approval_id_of_call(call, args)
        verdict = self._verdict_or_request_approval(approval_id, tool, description, args)
        if not verdict.approved:
            why = f": {verdict.why}" if verdict.why else ""
            raise ApprovalRefused(f"tool {tool} was not approved: {verdict.status} ({approval_id}){why}")
        return approval_id, verdict

    def rerun_approval(
        self, tool: str, question: str, args: JsonObject, call: IdentifiedToolCall, starts: int
    ) -> tuple[str, bool]:
        """The approval to run a call again that was begun `starts` times without an answer, and whether it was given.

        Raises:
            ApprovalPending: there is no verdict yet.
        """
        approval_id = f"{self._approval_id_of_call(call, args)}{RERUN_ID_MARKER}{starts}"
        return approval_id, self._verdict_or_request_approval(approval_id, tool, question, args).approved

    def _verdict_or_request_approval(
        self, approval_id: str, tool: str, description: str, args: JsonObject
    ) -> GatedCallVerdict:
        verdict = self._verdicts.get(approval_id)
        if verdict is not None:
            return verdict
        self._check_arguments_size(tool, args)
        needed = ApprovalNeeded(
            approval_id=approval_id,
            action=f"{self._agent}.{tool}",
            description=description or tool,
            args=args,
            risk_level=self._risk_of_tool(tool),
        )
        self.needed.append(needed)
        raise ApprovalPending(f"tool {tool} waits for approval {approval_id}")

    async def check_signatures(self, approval_id: str, tool: str, args: JsonObject) -> None:
        """Check that people signed exactly this call, as far as policy asks for it.

        Raises:
            Unproven: they have not.
            RetryLater: the log has not arrived yet.
        """
        if self._gate is not None:
            await self._gate.check_signatures(approval_id, f"{self._agent}.{tool}", args, self._risk_of_tool(tool))

    def _risk_of_tool(self, tool: str) -> RiskLevel:
        return self._gated.get(tool, "medium")

    def _check_arguments_size(self, tool: str, args: JsonObject) -> None:
        size = len(to_json(args)) + sum(len(to_json(needed.args)) for needed in self.needed)
        if size > MAX_ARGS_BYTES:
            raise Invalid(
                f"tool {tool} waits for approval, and its arguments have {size} bytes (with those of the calls that "
                f"wait with it); people can be asked about {MAX_ARGS_BYTES}: store the content, pass a reference"
            )

    async def executed_result(self, approval_id: str) -> JsonObject | None:
        """`{"value": ...}` as the approved call returned it, if an earlier version of the library stored it."""
        return None if self._gate is None else await self._gate.load_stored_result(approval_id)

    async def store_result(self, approval_id: str, tool: str, args: JsonObject, value: JsonValue) -> None:
        """Keeps what the approved call returned where an earlier version of the library looks for it."""
        if self._gate is not None:
            await self._gate.store_result(approval_id, f"{self._agent}.{tool}", args, value)

    def _approval_id_of_call(self, call: IdentifiedToolCall, args: JsonObject) -> str:
        canonical = json.dumps(args, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:12]
        return f"{self._task_id}.{call.tool}.{digest}.{call.occurrence + 1}"


class PostgresApprovalGate:
    """The gate of one task, in PostgreSQL."""

    def __init__(self, pool: Pool, task: AgentTask, proofs: GatedCallSignatureChecker) -> None:
        self._pool = pool
        self._task = task
        self._tenant_id = task.tenant_id
        self._proofs = proofs

    async def check_signatures(self, approval_id: str, action: str, args: JsonObject, risk: RiskLevel) -> None:
        """Check the signatures that policy asks for.

        Raises:
            Unproven: they do not hold, or are too few.
            RetryLater: the log has not arrived yet, or PostgreSQL is unavailable.
        """
        await self._proofs.check_signatures(self._task, approval_id, action, args, risk)

    async def load_verdicts(self) -> dict[str, GatedCallVerdict]:
        """The verdicts about the task's calls so far, by approval id.

        Raises:
            RetryLater: PostgreSQL is unavailable.
        """
        rows = await self._fetch_decrypted_rows(ACTIONS, _SELECT_VERDICTS, self._task.session_id, self._task.task_id)
        return {
            row["action_id"]: GatedCallVerdict(
                approved=row["approval_status"] in _STATUSES_THAT_PERMIT_CALL,
                status=row["approval_status"],
                args=json.loads(row["args"]),
                why=json.loads(row["error"])["message"] if row["error"] else None,
            )
            for row in rows
        }

    async def load_stored_result(self, approval_id: str) -> JsonObject | None:
        """What the call returned, if it was made."""
        rows = await self._fetch_decrypted_rows(EXECUTIONS, _SELECT_STORED_RESULT, approval_id)
        return {"value": json.loads(rows[0]["result"])} if rows else None

    async def store_result(self, approval_id: str, action: str, args: JsonObject, value: JsonValue) -> None:
        """Keeps what the call returned."""
        body = to_json(value).decode()
        with retry_later_if_unavailable():
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                stored = await seal_columns(
                    connection, self._tenant_id, self._task.session_id, EXECUTIONS, approval_id, result=body
                )
                called = (approval_id, action, content_hash(action, args))
                await connection.execute(_INSERT_RESULT, self._tenant_id, *called, stored["result"])

    async def _fetch_decrypted_rows(
        self, table: SealedTable, statement: str, *arguments: object
    ) -> list[dict[str, Any]]:
        with retry_later_if_unavailable():
            async with tenant_transaction(self._pool, self._tenant_id) as connection:
                found = await connection.fetch(statement, self._tenant_id, *arguments)
                rows = [{**row, "session_id": self._task.session_id} for row in found]
                return await open_rows(connection, self._tenant_id, table, rows)
