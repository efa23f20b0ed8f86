"""Names and messages of the activities: all that a workflow knows of them."""

from dataclasses import dataclass, field

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import RunStatus
from flotilla.contracts.session_events import ErrorRaised
from flotilla.contracts.tasks import ResultReference, Turn

DELEGATE = "delegate"
TELL_AGENT_CANCELLED = "tell_agent_cancelled"
BEGIN_RUN = "begin_run"
SAVE_TO_DATABASE = "save_to_database"
CLOSE_RUN = "close_run"

RUN_CLOSED = "RunClosed"
"""Type of the failure of an activity that meets a run which has already ended."""
CANCELLED_BY_AGENT = "Cancelled"
"""Type of the failure of a task whose agent reported a cancellation before Temporal knew of one."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledTask:
    """A task that nobody needs any more."""

    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Which run."""

    tenant_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """What a run starts from."""

    history: list[Turn] = field(default_factory=list)
    """Earlier turns of the session, oldest first, bounded in size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAnswer:
    """Makes the result of `task_id` the answer of the run."""

    run: RunKey
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRun:
    """Ends a run without an answer."""

    run: RunKey
    status: RunStatus
    error: ErrorRaised | None = None
