"""What a task context needs of the world: behind protocols, so that the test kit can stand in."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.live import LiveStepStatus
from flotilla.contracts.mcp import McpResult
from flotilla.contracts.requests import RiskLevel
from flotilla.contracts.tasks import AgentTask, McpCallNeeded, Turn
from flotilla.llm import Completion, CompletionRequest, OnToken


class LiveOutput(Protocol):
    """The way to clients that watch or wait. Losing it loses nothing."""

    async def report_progress(self, text: str) -> None:
        """Tells that the task goes on."""

    async def show_text(self, text: str) -> None:
        """Shows a piece of the answer."""

    async def show_step_status(self, status: LiveStepStatus) -> None:
        """Shows that the step began or ended."""

    async def void_shown_text(self) -> None:
        """Voids the tokens shown so far: a new attempt begins."""

    async def flush_text(self) -> None:
        """Waits until the tokens given so far are on their way."""

    async def is_cancelled(self) -> bool:
        """Whether the task was cancelled."""


class SessionHistory(Protocol):
    """What happened in the session before this task."""

    async def turns(self, limit: int = 10) -> list[Turn]:
        """The last `limit` questions and answers, oldest first, as forks and rollbacks left them."""


class TaskModel(Protocol):
    """The language model, with its answers stored under (task id, request, occurrence) before they are used."""

    @property
    def name(self) -> str:
        """The model that is asked for."""

    async def complete(self, request: CompletionRequest, on_token: OnToken) -> Completion:
        """The answer to the next request of this kind in this run of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedToolCall:
    """One call of a tool, known again in every run of its task."""

    tool: str
    args_hash: bytes
    occurrence: int
    """Which of the task's equal calls this is, from 0."""
    args: JsonObject = field(default_factory=dict)
    """As the log shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedToolCall:
    """One start of a call."""

    call: IdentifiedToolCall
    start_no: int
    """From 1."""
    call_id: str
    """Of its events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallEnd:
    """How a start ended: the tool `returned`, it `refused` and did nothing, or it `raised` and nobody knows."""

    outcome: Literal["returned", "refused", "raised"]
    result: Any = None
    """Plain JSON data."""
    escaped: list[str] = field(default_factory=list)
    """Where in the result text stands for what no store holds (`flotilla.contracts.values`)."""
    error: str | None = None
    call_id: str = ""
    recorded: bool = False
    """The log shows it already."""
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallHistory:
    """What earlier runs of a task left of a call."""

    starts: int = 0
    """How often it was begun."""
    returned: ToolCallEnd | None = None
    is_unknown: bool = False
    """It was begun, and may have had its effect, but there is no result."""


class ToolCallStore(Protocol):
    """The calls of tools, stored under (task id, tool, arguments, occurrence) around each run of the tool."""

    async def load_call_history(self, call: IdentifiedToolCall) -> ToolCallHistory:
        """What earlier runs left of it, once nobody runs it."""

    async def begin_call(
        self, call: IdentifiedToolCall, start_no: int, call_id: str, approval_id: str | None
    ) -> StartedToolCall | None:
        """Claims it; None if somebody else was faster."""

    def hold_call_claim(self, begun: StartedToolCall) -> AbstractAsyncContextManager[None]:
        """Keeps the claim while the tool runs."""

    async def store_call_end(self, begun: StartedToolCall, ended: ToolCallEnd) -> ToolCallEnd:
        """Stores how it ended; returns the end that counts."""


class McpCaller(Protocol):
    """The tool gateway, as far as it makes calls while their task is held."""

    async def call_at_once(self, task: AgentTask, wanted: McpCallNeeded) -> McpResult | None:
        """What the tool answered, stored; None where the task has to ask the worker for the call. Raises
        `McpToolFailed` where it is refused for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCallVerdict:
    """What people decided about one call of a gated tool."""

    approved: bool
    status: str
    """`approved`, `not_required`, `rejected`, `timeout` or `cancelled`."""
    args: JsonObject
    """What was decided about: the call's arguments, or those of an edit."""
    why: str | None = None
    """Why there is no approval, where not a vote ended it."""


class ApprovalGate(Protocol):
    """What proves approved calls of gated tools, and what they returned."""

    async def check_signatures(self, approval_id: str, action: str, args: JsonObject, risk: RiskLevel) -> None:
        """Checks the signatures that policy asks for; raises Unproven."""

    async def load_stored_result(self, approval_id: str) -> JsonObject | None:
        """`{"value": ...}` as the approved call returned it, if it was made."""

    async def store_result(self, approval_id: str, action: str, args: JsonObject, value: JsonValue) -> None:
        """Keeps what the approved call returned: it is not made again."""
