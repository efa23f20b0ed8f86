"""The session events of one task, kept until its effect transaction writes them all."""

import hashlib
from collections.abc import Sequence
from typing import Any

from flotilla.agent.ports import IdentifiedToolCall
from flotilla.contracts.envelope import from_builtins, to_json
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.event_rules import AGENT_PREFIX, write_violation_of_data
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.session_events import (
    DATA_OF_KIND,
    AgentStateEvent,
    SessionEventData,
    SessionEventKind,
    ToolCall,
    session_event_type,
)
from flotilla.contracts.tasks import AgentTask
from flotilla.contracts.values import to_storable, to_storable_text, with_escaped_places

MAX_RECORDED_BYTES = 64_000
MAX_MESSAGE_CHARACTERS = 4000


class TaskEventRecorder:
    """Collects what an agent does, in order."""

    def __init__(self, agent: str, task: AgentTask) -> None:
        self._agent = agent
        self._task = task
        self.events: list[AgentStateEvent] = []

    def record_event(
        self, kind: SessionEventKind, data: SessionEventData | dict[str, Any], *, escaped: Sequence[str] = ()
    ) -> None:
        """Add one event. `escaped` are the places in `data` where text stands for what no store holds already.

        Raises:
            Invalid: `data` is not what events of `kind` hold, or no agent may write such an event.
        """
        source = f"{AGENT_PREFIX}{self._agent}"
        plain = with_escaped_places(data, escaped)
        try:
            from_builtins(plain, DATA_OF_KIND[kind])
        except KeyError:
            raise Invalid(f"no session event kind {kind!r}; there are {', '.join(DATA_OF_KIND)}") from None
        except Undecodable as error:
            raise Invalid(f"{kind} event: {error}") from error
        if problem := write_violation_of_data(source, session_event_type(kind), plain, self._task.session_id):
            raise Invalid(f"{kind} event: {problem}")
        self.events.append(
            AgentStateEvent(
                kind=kind,
                data=plain,
                source=source,
                run_id=self._task.run_id,
                task_id=self._task.task_id,
                subject_key=self._task.user_id,
            )
        )


def shorten_result(value: Any) -> JsonValue:
    """A tool's result as it is recorded: whole, or its size and hash where it is over 64 kB."""
    body = to_json(to_storable(value).value)
    if len(body) <= MAX_RECORDED_BYTES:
        return value  # type: ignore[no-any-return]
    return {
        "truncated": True,
        "size_bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "beginning": body[:1000].decode(errors="replace"),
    }


def arguments_as_recorded(arguments: object) -> JsonObject:
    """A tool's arguments as they are recorded."""
    value = shorten_result(arguments)
    return value if isinstance(value, dict) else {"value": value}


def tool_call_data(call: IdentifiedToolCall, call_id: str, agent: str) -> ToolCall:
    """The data of the event that shows a start of `call`."""
    return ToolCall(tool=call.tool, call_id=call_id, args=call.args, agent=agent)


def describe_exception(error: BaseException) -> str:
    """What an exception says, with its class."""
    return f"{type(error).__name__}: {storable_exception_message(error)}"


def storable_exception_message(error: BaseException) -> str:
    """What an exception says, as every store holds it; at most 4,000 characters."""
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001 - the author's class may raise anything here
        text = f"(its text can't be read: {type(broken).__name__})"
    return to_storable_text(text)[:MAX_MESSAGE_CHARACTERS]
