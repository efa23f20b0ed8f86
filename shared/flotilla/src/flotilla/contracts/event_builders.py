"""Session events, built in one place: each change has the same details, whichever service writes it."""

from hashlib import sha256

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.requests import RAGRequest, RunStatus, WorkflowRequest
from flotilla.contracts.session_events import (
    DATA_OF_KIND,
    AgentStateEvent,
    Message,
    SessionEventData,
    SessionEventKind,
    StateChange,
)
from flotilla.contracts.tasks import Replay

_KIND_OF_DATA: dict[type[SessionEventData], SessionEventKind] = {data: kind for kind, data in DATA_OF_KIND.items()}


def session_event(data: SessionEventData, source: str, *, run_id: str | None = None) -> AgentStateEvent:
    """Return the event that records `data`; `source` names its writer (`/gateway`)."""
    return AgentStateEvent(kind=_KIND_OF_DATA[type(data)], data=to_builtins(data), source=source, run_id=run_id)


def state_change(
    change: str, details: JsonObject, source: str, *, status: str | None = None, run_id: str | None = None
) -> AgentStateEvent:
    """Return the `state_change` event for `change`; `status` is the session's from here on, if it changes."""
    return session_event(StateChange(change=change, status=status, details=details), source, run_id=run_id)


def run_started_events(request: RAGRequest, source: str, *, through: JsonObject | None = None) -> list[AgentStateEvent]:
    """Return the events that open a run: the user's question, then `run_started`. `through` names the service that asks
    on the user's behalf."""
    run_id = request.run_id
    question = Message(role="user", content=request.query)
    details: JsonObject = {
        "run_id": run_id,
        "user_id": request.user_id,
        **(through or {}),
        **_scheduled(request),
        **({"replay": _candidate(request.replay)} if request.replay else {}),
    }
    started = state_change("run_started", details, source, status="running", run_id=run_id)
    return [session_event(question, source, run_id=run_id), started]


def workflow_started_event(
    request: WorkflowRequest, source: str, *, through: JsonObject | None = None
) -> AgentStateEvent:
    """Return the event that opens a run of an installed workflow; `through` as for a question."""
    details: JsonObject = {
        "run_id": request.run_id,
        "user_id": request.user_id,
        **(through or {}),
        **_scheduled(request),
        **({"parent_run_id": request.parent_run_id} if request.parent_run_id else {}),
        "workflow": request.workflow,
        "version": request.version,
        "input": request.input,
    }
    return state_change("run_started", details, source, status="running", run_id=request.run_id)


def _candidate(replay: Replay) -> JsonObject:
    """What is other than in the recorded run; prompts by their hashes."""
    prompts: JsonObject = {agent: sha256(text.encode()).hexdigest() for agent, text in replay.prompts.items()}
    return {
        "of_run": replay.of_run,
        "model": replay.model,
        "index": replay.index,
        "agents": dict(replay.agents),
        "prompts_sha256": prompts,
    }


def _scheduled(request: RAGRequest | WorkflowRequest) -> JsonObject:
    return {"schedule_id": request.schedule_id} if request.schedule_id else {}


def run_opening_events(
    request: RAGRequest | WorkflowRequest, source: str, *, through: JsonObject | None = None
) -> list[AgentStateEvent]:
    """Return the events that open a run, whatever it is a run of; `through` as for a question."""
    if isinstance(request, RAGRequest):
        return run_started_events(request, source, through=through)
    return [workflow_started_event(request, source, through=through)]


def run_queued_event(run_id: str, if_active: str, by: JsonObject, source: str) -> AgentStateEvent:
    """Return the event that records that a run waits for its turn; `by` is who asks."""
    return state_change("run_queued", {"run_id": run_id, "if_active": if_active, **by}, source, run_id=run_id)


def run_finished_event(
    run_id: str, status: RunStatus, source: str, output: JsonValue = None, versions: JsonObject | None = None
) -> AgentStateEvent:
    """Return the event that ends a run, with what it returned, if that is not a message; its session is idle from then
    on. `versions` are those of the agents, where a route decided about them."""
    details: dict[str, JsonValue] = {"run_id": run_id, "status": status}
    if versions:
        details["versions"] = versions
    if output is not None:
        details["output"] = output
    return state_change("run_finished", details, source, status="idle", run_id=run_id)
