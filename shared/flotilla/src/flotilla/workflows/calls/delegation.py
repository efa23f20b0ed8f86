"""Names and messages of the activities around delegated tasks: all that a workflow knows of them."""

from dataclasses import dataclass, field

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.tasks import ApprovalNeeded, McpCallNeeded, ResultReference

DELEGATE = "delegate"
TELL_AGENT_CANCELLED = "tell_agent_cancelled"
SETTLE_CALLS = "settle_calls"
CANCELLED_BY_AGENT = "Cancelled"
"""Type of the failure of a task whose agent reported a cancellation before Temporal knew of one."""
SUSPENDED = "TenantSuspended"
"""Type of the failure of a task that is not given out, since its tenant is suspended: the workflow asks again."""
MAX_REASON_CHARS = 4000
"""Of a failure's message: an agent may send any, and a workflow's history keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """What came of a delegated task: its result, or a reference to a large one."""

    task_id: str
    """The task whose row holds the result: the last hop's, in a routing slip."""
    result: JsonObject | None = None
    result_ref: ResultReference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFailure:
    """Details of the failure of a delegated task, beside the agent's error type and message."""

    task_id: str
    agent: str
    attempt: int
    retryable: bool
    approvals: list[ApprovalNeeded] = field(default_factory=list)
    """What the task waits for, when it paused."""
    calls: list[McpCallNeeded] = field(default_factory=list)
    """Calls of MCP tools that it waits for, then."""
    retry_after_s: float | None = None
    """The soonest that another try makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledTask:
    """A task that nobody needs any more."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTaskReference:
    """A task whose try has ended, or every task of a run."""

    tenant_id: str
    task_id: str = ""
    """The first of its slip."""
    run_id: str = ""
    is_over: bool = True
    """False for a task that has paused again: what it has not called yet, it may call later."""
