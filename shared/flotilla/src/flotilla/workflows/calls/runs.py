"""Names and messages of the activities that keep runs: all that a workflow knows of them."""

from dataclasses import dataclass, field

from flotilla.contracts.requests import RunStatus
from flotilla.contracts.session_events import ErrorRaised
from flotilla.contracts.tasks import Turn

BEGIN_RUN = "begin_run"
SAVE_TO_DATABASE = "save_to_database"
CLOSE_RUN = "close_run"
PAUSE_RUN = "pause_run"
RUN_CLOSED = "RunClosed"
"""Type of the failure of an activity that meets a run which has already ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """Which run."""

    tenant_id: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRun:
    """A run waits for people, or goes on."""

    run: RunKey
    paused: bool
    action_id: str = ""
    """Of the action that may wait for people: without a vote about it the run does not pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """What a run starts from."""

    history: list[Turn] = field(default_factory=list)
    """Earlier turns of the session, oldest first, bounded in size."""
    limits_s: dict[str, float] = field(default_factory=dict)
    """How long a task of each registered agent may take, as the agent says."""
    live: str | None = None
    """The Redis stream of the run's live tokens and steps."""


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
