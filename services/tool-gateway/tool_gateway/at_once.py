"""Calls that agents ask for while they hold their tasks: checked, begun, made and stored here, without the worker.

A call is try 0 of the task that the worker opens for it otherwise. So whatever does not end here (people have to
decide, the schema refuses, the server is away, this process is killed) the worker's try goes on with: it finds what
was begun, and asks people about a call without an answer.
"""

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from flotilla.agent import ToolNotCalled
from flotilla.agent.effects import TaskAnswerStore
from flotilla.agent.execution import FunctionOutcome
from flotilla.agent.gates import GatedToolCalls
from flotilla.agent.ports import IdentifiedToolCall, StartedToolCall, ToolCallEnd, ToolCallHistory
from flotilla.agent.recording import TaskEventRecorder, tool_call_data
from flotilla.agent.tool_calls import PostgresToolCallStore
from flotilla.agent.tool_runner import ToolRunner
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.contracts.approvals import MAX_ARGS_BYTES
from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.errors import Forbidden, Invalid, Refused
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.mcp import MCP_AGENT, McpCallAtOnce, McpResult
from flotilla.contracts.tasks import AgentTask, is_mcp_call_id
from flotilla.contracts.values import to_storable, with_escaped_places
from flotilla.encryption import sealed_columns
from flotilla.encryption.tables import TOOL_CALLS
from flotilla.postgres import UNSTORABLE, Pool, TaskProof, acting_for_task, retry_later_if_unavailable, session_cipher
from flotilla.postgres.claims import CLAIM_S
from flotilla.runtime.confined import FunctionRunner
from tool_gateway.connections import ServerConnections
from tool_gateway.governed import GovernedMcpTool, needs_people
from tool_gateway.pins import AllowedTools

TRY = 0
"""Before the worker's, which begin at 1."""
MAX_NAMED_CHARS = 200
"""Of what a request names, in answers and in the log: anybody who reaches the port can send any."""
_SECRET_BYTES = 32
# The asking task, and what its tenant allowed of the tool.
_SELECT_ASKING_TASK = "SELECT * FROM flotilla.asking_task($1, $2, $3, $4, $5, $6, $7)"
_BEGIN_CALL_AT_ONCE = "SELECT flotilla.begin_call_at_once($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
_LEFT = {
    "not_allowed": "the asking task is over, or the tool is not allowed any more",
    "recorded": "it is on record already",
    "suspended": "the tenant is suspended: the call waits until it is resumed",
}
"""Why the worker goes on with a call that the database does not begin."""


class LeftToWorker(Exception):
    """The call is not made here, or not ended: the agent's task asks the worker for it."""


class TooManyCalls(Refused):
    """The task has begun as many calls as it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingTask:
    """A task that is open, and may ask for the call that it asks for."""

    asked: McpCallAtOnce
    session_id: str
    run_id: str | None
    principal: str | None
    deadline: datetime
    allowed_sha256: str | None


class CallsAtOnce:
    """Makes calls for tasks that are held."""

    def __init__(
        self,
        pool: Pool,
        connections: ServerConnections,
        pins: AllowedTools,
        policy: ReloadingPolicyFile,
        run: FunctionRunner,
        *,
        max_calls_per_task: int,
    ) -> None:
        """`run` holds arguments against the tools' schemas."""
        self._pool = pool
        self._connections = connections
        self._pins = pins
        self._policy = policy
        self._run = run
        self._max_calls_per_task = max_calls_per_task
        self._answers = TaskAnswerStore(pool, MCP_AGENT)

    async def call(self, asking: AskingTask, arguments: JsonObject) -> McpResult:
        """Make the call and return its answer, which is stored.

        Raises:
            LeftToWorker: the call needs more than this, is on record already, or its tenant is suspended.
            TooManyCalls: the task has begun as many as it may.
            RetryLater: PostgreSQL is unavailable.
        """
        asked = asking.asked
        server, _, name = asked.tool.partition(".")
        if len(to_json(arguments)) > MAX_ARGS_BYTES:
            raise LeftToWorker(f"its arguments have more than {MAX_ARGS_BYTES} bytes")
        connection = self._connections.get(server)
        offer = connection.offers.get(name) if connection is not None and connection.is_connected else None
        if connection is None or offer is None or not self._pins.may_allow(asked.tenant_id, server):
            raise LeftToWorker("the tool is not on offer now")
        if asking.allowed_sha256 != offer.definition_sha256:
            raise LeftToWorker("the tool is not allowed as it is offered now")
        try:
            with connection.slots.hold(asked.tenant_id):
                return await self._governed(asking, arguments, GovernedMcpTool(offer, connection, self._run))
        except (Invalid, ToolNotCalled) as error:
            raise LeftToWorker(str(error)) from error

    async def check_may_ask(self, asked: McpCallAtOnce) -> AskingTask:
        """Return the task that asks, if the secret opens one that may ask for this call.

        Raises:
            Forbidden: it does not.
            RetryLater: PostgreSQL is unavailable.
        """
        if not is_mcp_call_id(asked.task_id, asked.call_id):
            raise Forbidden(f"task {asked.task_id[:MAX_NAMED_CHARS]} may not ask for a call of this id")
        proof = (asked.tenant_id, asked.task_id, asked.attempt, asked.secret)
        row = None
        with retry_later_if_unavailable(), suppress(*UNSTORABLE):  # no row holds such a value
            row = await self._pool.fetchrow(_SELECT_ASKING_TASK, *proof, asked.call_id, *asked.tool.partition(".")[::2])
        if row is None:
            named = asked.task_id[:MAX_NAMED_CHARS]
            raise Forbidden(f"task {named}, try {asked.attempt}, is not open, or may not ask for this call")
        return AskingTask(asked=asked, **row)

    async def _governed(self, asking: AskingTask, given: JsonObject, tool: GovernedMcpTool) -> McpResult:
        asked = asking.asked
        arguments = tool.validated_arguments(given)
        await tool.check_arguments(arguments)
        if needs_people(self._policy, tool, arguments):
            raise LeftToWorker("people have to approve it")
        task = AgentTask(
            task_id=asked.call_id,
            agent=MCP_AGENT,
            tenant_id=asked.tenant_id,
            session_id=asking.session_id,
            run_id=asking.run_id,
            user_id=asking.principal,
            attempt=TRY,
            input={"tool": asked.tool, "arguments": given},
            secret=secrets.token_urlsafe(_SECRET_BYTES),
            deadline=asking.deadline.isoformat(),
        )
        with acting_for_task(TaskProof(task_id=task.task_id, attempt=TRY, secret=task.secret or "")):
            return await self._made(asking, task, tool, arguments)

    async def _made(
        self, asking: AskingTask, task: AgentTask, tool: GovernedMcpTool, arguments: dict[str, Any]
    ) -> McpResult:
        started = time.monotonic()
        calls = _CallStore(self._pool, task, asking, self._max_calls_per_task)
        recorder = TaskEventRecorder(MCP_AGENT, task)
        runner = ToolRunner(task, calls, GatedToolCalls(MCP_AGENT, task.task_id, {}), recorder, new_id)
        result = McpResult(**await runner.run_tool(None, tool, arguments))
        kept = to_storable(to_builtins(result))
        outcome = FunctionOutcome(
            status="done",
            duration_ms=round((time.monotonic() - started) * 1000, 3),
            result=kept.value,
            escaped=kept.escaped,
            events=recorder.events,
        )
        call, ended = calls.returned()
        if not await self._answers.commit_tool_call(task, call, ended, outcome):
            raise LeftToWorker("another try has its answer")
        return result


class _CallStore(PostgresToolCallStore):
    """The one call of a task's try 0: begun with the task itself, its return stored with the task's answer."""

    def __init__(self, pool: Pool, task: AgentTask, asking: AskingTask, max_calls: int) -> None:
        super().__init__(pool, task, MCP_AGENT)
        self._own_pool = pool
        self._opened = task
        self._asked = asking.asked
        self._pinned = asking.allowed_sha256 or ""
        self._max_calls = max_calls
        self._returned: tuple[IdentifiedToolCall, ToolCallEnd] | None = None

    def returned(self) -> tuple[IdentifiedToolCall, ToolCallEnd]:
        """The call that was made, and what it returned."""
        assert self._returned is not None  # noqa: S101 - the runner ends what it runs
        return self._returned

    async def load_call_history(self, call: IdentifiedToolCall) -> ToolCallHistory:
        """None yet: `begin_call` refuses what is on record."""
        return ToolCallHistory()

    async def begin_call(
        self, call: IdentifiedToolCall, start_no: int, call_id: str, approval_id: str | None
    ) -> StartedToolCall:
        """Open the task and begin the call.

        Raises:
            LeftToWorker: it is on record, or not allowed any more, or its tenant is suspended.
            TooManyCalls: the asking task has begun as many as it may.
            RetryLater: PostgreSQL is unavailable.
        """
        asked, server_and_tool = self._asked, call.tool.partition(".")[::2]
        shown = to_json(with_escaped_places(tool_call_data(call, call_id, MCP_AGENT))).decode()
        task = self._opened
        with retry_later_if_unavailable():
            # The call's own task is not there yet: what opens the key is the secret of the one that asks.
            proof = TaskProof(task_id=asked.task_id, attempt=asked.attempt, secret=asked.secret)
            with acting_for_task(proof):
                async with self._own_pool.acquire() as connection:
                    cipher = await session_cipher(connection, task.tenant_id, task.session_id)
            stored = sealed_columns(cipher, TOOL_CALLS, call_id, {"called": shown})
            refusal = await self._own_pool.fetchval(
                _BEGIN_CALL_AT_ONCE,
                asked.tenant_id,
                asked.task_id,
                asked.attempt,
                asked.secret,
                asked.call_id,
                *server_and_tool,
                self._pinned,
                sha256((self._opened.secret or "").encode()).digest(),
                call.args_hash,
                call_id,
                stored["called"],
                CLAIM_S,
                self._max_calls,
            )
        if refusal == "too_many":
            raise TooManyCalls(
                f"task {asked.task_id} has made {self._max_calls} calls of MCP tools, and may make no more "
                "(FLOTILLA_MAX_CALLS_PER_TASK at the tool gateway)"
            )
        if refusal is not None:
            raise LeftToWorker(_LEFT[refusal])
        return StartedToolCall(call=call, start_no=start_no, call_id=call_id)

    async def store_call_end(self, begun: StartedToolCall, ended: ToolCallEnd) -> ToolCallEnd:
        """Keep what the tool returned until the task's answer is stored with it; store any other end."""
        if ended.outcome != "returned":
            return await super().store_call_end(begun, ended)
        self._returned = (begun.call, ended)
        return ended
