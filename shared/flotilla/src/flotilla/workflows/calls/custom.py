"""Names and messages of the activities that keep runs of workflows that are not built in."""

from dataclasses import dataclass, field

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import SessionEventKind
from flotilla.workflows.calls.runs import RunKey

BEGIN_WORKFLOW = "begin_workflow"
FINISH_WORKFLOW = "finish_workflow"
RECORD_EVENTS = "record_events"
LOAD_RESULT = "load_result"
COMBINE_RESULTS = "combine_results"
SUM_USAGE = "sum_usage"
STEP_FINISHED = "run_step_finished"
"""The change that an ended step is recorded as."""
MAX_LOADED_BYTES = 500_000
"""Of a result or an output as JSON: the history of a workflow keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNote:
    """One event of the session: a step that ended, or what the author records."""

    kind: SessionEventKind = "state_change"
    data: JsonObject = field(default_factory=dict)
    task_id: str | None = None
    """The task whose stored result is added to the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEventRecords:
    """Events to append. `number` is the idempotency key: the run's records are numbered from 1, without gaps."""

    run: RunKey
    workflow: str
    number: int
    notes: list[RunNote]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedWorkflow:
    """Ends a run with what its workflow returned."""

    run: RunKey
    output: JsonObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResultReference:
    """The stored result of a task."""

    run: RunKey
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedResult:
    """A result that was stored."""

    data: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineResults:
    """Stores the results of several tasks as one: `{"results": [...]}`, in this order, as the result of `task_id`."""

    run: RunKey
    session_id: str
    task_id: str
    parts: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the models that a run's agents called have counted."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """In the currency of the fleet's prices; 0 where it has none."""
