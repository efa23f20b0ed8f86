"""A run as the protocol's task, and the messages that ask for one."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from a2a.types.a2a_pb2 import (
    Artifact,
    Message,
    Part,
    Role,
    Task,
    TaskArtifactUpdateEvent,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import ContentTypeNotSupportedError, InvalidParamsError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from flotilla.contracts.a2a import MAX_DATA_DEPTH, TASK_STATES
from flotilla.contracts.envelope import to_builtins, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import OPEN_RUN_STATUSES, RAGResponse
from flotilla.contracts.values import to_storable_text
from gateway.schemas.runs import Run

TEXT = "text/plain"
JSON = "application/json"
MODES = (TEXT, JSON)
MESSAGE_ID = "a2a_message_id"
"""The run's metadata that holds the id of the message that started it."""
_LONGEST_METADATA = 256
_EXACT = 2**53
_DETAILS = ("sources", "confidence", "confidence_basis", "abstained", "statements", "model", "usage", "finish_reason")


def is_task_open(run: Run) -> bool:
    """Whether the task may still change."""
    return run.status in OPEN_RUN_STATUSES


def task_from_run(
    run: Run, state: str | None = None, waits_for: Message | None = None, *, artifacts: bool = True
) -> Task:
    """Return the run as a task; `state` and `waits_for` say what people are to do."""
    status = task_status_from_run(run, state, waits_for)
    task = Task(id=run.run_id, context_id=run.session_id, status=status, history=[first_message_of_run(run)])
    if artifacts and (artifact := artifact_from_run(run)) is not None:
        task.artifacts.append(artifact)
    return task


def task_status_from_run(run: Run, state: str | None = None, waits_for: Message | None = None) -> TaskStatus:
    """Return the task's status, with the reason where it failed."""
    message = waits_for
    if run.error is not None:
        message = status_message(run, str(run.error.get("message") or run.status))
    known = TASK_STATES[run.status] if state is None else state
    return TaskStatus(state=known, message=message, timestamp=_timestamp(run_changed_at(run)))


def run_changed_at(run: Run) -> datetime:
    """Return when the run's row changed last, as listings order it."""
    return run.finished_at or run.started_at or run.created_at


def status_update_event(run: Run, state: str | None = None, waits_for: Message | None = None) -> TaskStatusUpdateEvent:
    """Return the event that has the task's present status."""
    status = task_status_from_run(run, state, waits_for)
    return TaskStatusUpdateEvent(task_id=run.run_id, context_id=run.session_id, status=status)


def artifact_update_event(run: Run, parts: Sequence[Part], *, append: bool, last: bool) -> TaskArtifactUpdateEvent:
    """Return the event that adds parts to the answer, or begins it again."""
    artifact = _artifact(run, parts)
    return TaskArtifactUpdateEvent(
        task_id=run.run_id, context_id=run.session_id, artifact=artifact, append=append, last_chunk=last
    )


def status_message(run: Run, text: str, data: JsonObject | None = None, about: str = "") -> Message:
    """Return what the fleet says of the task in its present state; `about` tells it from what it said before."""
    parts = [text_part(text), *([data_part(data)] if data is not None else [])]
    message_id = f"{run.run_id}.{about or run.status}"
    return Message(
        message_id=message_id, context_id=run.session_id, task_id=run.run_id, role=Role.ROLE_AGENT, parts=parts
    )


def first_message_of_run(run: Run) -> Message:
    """Return the message that started the run."""
    part = text_part(run.query) if run.input is None else data_part(run.input)
    message_id = run.metadata.get(MESSAGE_ID) or f"{run.run_id}.0"
    return Message(
        message_id=message_id, context_id=run.session_id, task_id=run.run_id, role=Role.ROLE_USER, parts=[part]
    )


def artifact_from_run(run: Run) -> Artifact | None:
    """Return what came of the run; None where nothing did, or not yet."""
    if run.result is not None:
        return _artifact(run, [text_part(run.result.answer), details_part(run.result)])
    return None if run.output is None else _artifact(run, [data_part(run.output)])


def details_part(answer: RAGResponse) -> Part:
    """Return the sources, the confidence and what else an answer has beside its text."""
    every = to_builtins(answer)
    return data_part({name: every[name] for name in _DETAILS})


def text_part(text: str) -> Part:
    """Return a text."""
    return Part(text=text, media_type=TEXT)


def data_part(data: Any) -> Part:
    """Return JSON; as text where the protocol's data can't hold it: nested too deep, or a number beyond doubles."""
    try:
        return Part(data=ParseDict(data, Value(), max_recursion_depth=MAX_DATA_DEPTH), media_type=JSON)
    except (ParseError, OverflowError):
        return Part(text=to_json(data).decode(), media_type=JSON)


def _artifact(run: Run, parts: Sequence[Part]) -> Artifact:
    name = "answer" if run.input is None else "output"
    return Artifact(artifact_id=f"{run.run_id}.{name}", name=name, parts=parts)


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def said(message: Message) -> tuple[str, JsonObject | None]:
    """Return the message's text and its data.

    Raises:
        InvalidParamsError: it is not a person's, says nothing, or has several pieces of data.
        ContentTypeNotSupportedError: it has files.
    """
    if to_storable_text(message.message_id) != message.message_id:
        raise InvalidParamsError("message.message_id: a NUL character or a lone surrogate can't be stored")
    if message.role != Role.ROLE_USER:
        raise InvalidParamsError("message.role: send ROLE_USER; what the agent says is in the task")
    texts: list[str] = []
    data: list[Any] = []
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind == "text":
            texts.append(part.text)
        elif kind == "data":
            data.append(_data_of(part))
        else:
            raise ContentTypeNotSupportedError("files are not taken: send text or data")
    text = "\n".join(texts).strip()
    if len(data) > 1 or (data and not isinstance(data[0], dict)):
        raise InvalidParamsError("message.parts: send one piece of data, a JSON object")
    if not text and not data:
        raise InvalidParamsError("message.parts: it says nothing")
    return text, data[0] if data else None


def message_idempotency_key(message: Message) -> str:
    """Return what tells a repetition of the message from another one."""
    return hashlib.sha256(message.message_id.encode()).hexdigest()


def message_metadata(message: Message) -> dict[str, str]:
    """Return what the run remembers of its message."""
    return {MESSAGE_ID: message.message_id} if len(message.message_id) <= _LONGEST_METADATA else {}


def _data_of(part: Part) -> Any:
    try:
        return _exact(MessageToDict(part.data))
    except ValueError as error:
        raise InvalidParamsError("message.parts: NaN and infinities can't be stored") from error


def _exact(value: Any) -> Any:
    """Return JSON whose whole numbers are integers: the protocol's data has only floating point numbers."""
    if isinstance(value, dict):
        return {name: _exact(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_exact(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value
