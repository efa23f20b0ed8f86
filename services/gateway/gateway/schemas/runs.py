"""Runs."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias

from fastapi import Path
from pydantic import ConfigDict, Field, JsonValue, StringConstraints, model_validator

from flotilla.contracts.notices import NoticeKind
from flotilla.contracts.requests import IfActive, RAGResponse, RunStatus
from gateway.schemas.common import (
    ID_PATTERN,
    MAX_WAIT_S,
    STORABLE,
    WRITTEN,
    Answer,
    Id,
    JsonBody,
    RequestBody,
    limit_json_size,
)

MAX_QUERY_CHARACTERS = 32_000
MAX_INPUT_BYTES = 200_000
MAX_METADATA = 20
_NAMED = StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_VALUE = StringConstraints(max_length=256)
Metadata: TypeAlias = Annotated[
    dict[Annotated[str, _NAMED], Annotated[str, _VALUE, STORABLE]], Field(max_length=MAX_METADATA)
]
_RUN: dict[str, JsonValue] = {
    "run_id": "0197f1a2-7c51-7d06-a3f0-1c3b5e8f9a01",
    "session_id": "handbook",
    "workflow_id": "run-0197f1a2-7c51-7d06-a3f0-1c3b5e8f9a01",
    "status": "pending",
}


class NotifyBody(RequestBody):
    """A receiver of signed notices, as Standard Webhooks 1.0.0 has them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://hooks.example.com/runs", "secret_ref": "hooks"}]}
    )

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000), STORABLE]
    """On a host of `FLOTILLA_NOTIFY_HOSTS`."""
    secret_ref: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    """The name of the secret that signs; the fleet holds it, as the tenant's."""


class RunRequest(RequestBody):
    """A question, or the input of a workflow."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "Who may approve a refund?", "wait_s": 10},
                {"workflow": "brief", "input": {"topic": "harbours"}, "metadata": {"ticket": "T-17"}},
            ]
        }
    )

    query: Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY_CHARACTERS), WRITTEN] | None = None
    """What to answer; or `workflow` and `input`."""
    workflow: Id | None = None
    """Of `GET /v1/workflows`."""
    input: Annotated[JsonBody, limit_json_size(MAX_INPUT_BYTES)] | None = None
    """What the workflow takes, as its schema says."""
    metadata: Metadata = Field(default_factory=dict)
    """Names and values of your own; runs are found by them."""
    if_active: IfActive = "reject"
    """What to do while another run of the session is active: `reject` (409); `enqueue`: wait until those before it have
    ended; `interrupt`: cancel the active run, keep what it recorded, and start before those that are enqueued;
    `rollback`: the same, with the session rolled back to before the active run."""
    notify: NotifyBody | None = None
    """Who is notified when the run waits for people, and when it has ended; by default who the tenant names."""
    wait_s: float | None = Field(default=None, ge=0, le=MAX_WAIT_S)
    """Wait this long for the result; the run goes on either way."""
    steps: list[Id] = Field(default_factory=list, max_length=16)
    """Agents of one routing slip, in order. Empty: research, then write, a workflow step each."""
    top_k: int = Field(default=5, ge=1, le=50)
    """How many passages to look for."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.query is None) == (self.workflow is None):
            raise ValueError("give either a query or a workflow with its input")
        if self.query is not None and self.input is not None:
            raise ValueError("input belongs to a workflow: a question has only its query")
        if self.workflow is not None and self.model_fields_set & {"steps", "top_k"}:
            raise ValueError("steps and top_k belong to a question: put what the workflow takes into input")
        return self


class RunAccepted(Answer):
    """A run that was started."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RUN]})

    run_id: str
    session_id: str
    workflow_id: str
    status: RunStatus


class Run(RunAccepted):
    """A run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_RUN, "status": "success"}]})

    workflow: str
    """`rag` for a question."""
    user_id: str
    acted_by: str | None
    """The service that asked on the user's behalf; null where the user asked."""
    query: str
    """Empty for a run of a workflow."""
    input: dict[str, Any] | None
    """Of a run of a workflow."""
    metadata: dict[str, str]
    if_active: IfActive | None
    """How the run waited for another one; null where it did not have to."""
    schedule_id: str | None
    """The schedule that started it; null where somebody did."""
    parent_run_id: str | None
    """The run that started it; null where none did."""
    replay_of: str | None
    """The recorded run that it did again; null for all but replays."""
    result: RAGResponse | None
    """The answer to a question."""
    removed_documents: list[str] = Field(default_factory=list)
    """Documents that the result cites and that were removed since: their sources stay as they were recorded."""
    output: dict[str, Any] | None
    """What a workflow returned, or the last agent of `steps`, where that is no answer."""
    error: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RunList(Answer):
    """A page of runs, newest first."""

    runs: list[Run]
    next_cursor: str | None


class Step(Answer):
    """One thing that was done for a run."""

    kind: Literal["workflow_step", "delegation", "llm_call", "action", "question", "run"]
    step: str
    """`begin_run`, `delegate`, `save_to_database`; for a delegation `research`, `write`; for an action, a question to
    people or a run that it started the name of its step."""
    status: str
    attempt: int
    agent: str | None = None
    task_id: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    error: dict[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration_ms: float | None = None


class Notice(Answer):
    """What a receiver is notified of a run."""

    number: int
    """They are delivered in this order."""
    kind: NoticeKind
    delivery_id: str
    """The header `webhook-id`: a receiver tells a repetition by it."""
    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


class RunNotices(Answer):
    """The notices of a run, in order."""

    notices: list[Notice]


class RunSteps(Answer):
    """What was done for a run, in the order in which it began."""

    steps: list[Step]
    trace_id: str | None
    """Of the request that started the run; null where it was not traced."""
    workflow_history: Literal["complete", "unavailable"]
    """`unavailable` when Temporal does not answer or has forgotten the run: its own steps are then missing."""


class CancelAccepted(Answer):
    """The run is asked to stop."""

    run_id: str
    status: RunStatus


MAX_EVENT_BYTES = 64 * 1024
EventName: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN, description="What the workflow waits for.")]


class RunEventBody(RequestBody):
    """An event for a run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"paid": True}}]})

    data: Annotated[JsonBody, limit_json_size(MAX_EVENT_BYTES)] = Field(default_factory=dict)
    """What the workflow gets."""


class RunEventAccepted(Answer):
    """The event is stored; the run gets it."""

    run_id: str
    event_id: str
