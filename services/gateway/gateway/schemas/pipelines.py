"""Pipelines by routing slip."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, JsonValue

from flotilla.contracts.tasks import MAX_TASK_INPUT_BYTES
from gateway.schemas.common import Answer, Id, JsonBody, RequestBody, limit_json_size

PipelineStatus: TypeAlias = Literal[
    "pending", "running", "waiting_for_approval", "success", "error", "timeout", "cancelled"
]
MAX_TIMEOUT_S = 86_400
_TASK: JsonValue = {"steps": ["research", "write"], "input": {"query": "Who may approve a refund?"}}


class TaskBody(RequestBody):
    """Which agents, in order, and what the first one gets."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK]})

    steps: Annotated[list[Id], Field(min_length=1, max_length=16)]
    input: Annotated[JsonBody, limit_json_size(MAX_TASK_INPUT_BYTES)]
    """Of the first agent; at most 900,000 bytes as JSON."""
    session_id: Id | None = None
    """The session that records it; by default one of the task's own."""
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """How long each agent may work at it, in seconds, at most a day; by default as long as the agent allows itself."""


class TaskAccepted(Answer):
    """A pipeline that was submitted."""

    task_id: str
    session_id: str
    workflow_id: str
    status: PipelineStatus


class Task(TaskAccepted):
    """A pipeline; its result is the last agent's."""

    steps: list[str]
    user_id: str
    acted_by: str | None
    """The service that asked on the user's behalf; null where the user asked."""
    result: Any
    error: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class TaskList(Answer):
    """A page of tasks, newest first."""

    tasks: list[Task]
    next_cursor: str | None


class TaskCancelAccepted(Answer):
    """The task is asked to stop."""

    task_id: str
    status: PipelineStatus
