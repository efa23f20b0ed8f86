"""The session events of one task, kept until its effect transaction writes them all."""

import hashlib
import re
from typing import Any

import msgspec

from flotilla.contracts.envelope import from_builtins, to_builtins, to_json
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.json_types import JsonValue
from flotilla.contracts.session_events import DATA_OF_KIND, AgentStateEvent, SessionEventData, SessionEventKind
from flotilla.contracts.tasks import AgentTask

MAX_RECORDED_BYTES = 64_000
# An escaped NUL: the backslash before `u0000` is not itself escaped.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class Recorder:
    """Collects what an agent does, in order."""

    def __init__(self, agent: str, task: AgentTask) -> None:
        self._agent = agent
        self._task = task
        self.events: list[AgentStateEvent] = []

    def record(self, kind: SessionEventKind, data: SessionEventData | dict[str, Any]) -> None:
        """Adds one event.

        Raises:
            Invalid: `data` is not what events of `kind` hold.
        """
        plain = storable(to_builtins(data))
        try:
            from_builtins(plain, DATA_OF_KIND[kind])
        except KeyError:
            raise Invalid(f"no session event kind {kind!r}; there are {', '.join(DATA_OF_KIND)}") from None
        except Undecodable as error:
            raise Invalid(f"{kind} event: {error}") from error
        self.events.append(
            AgentStateEvent(
                kind=kind,
                data=plain,
                source=f"/agents/{self._agent}",
                run_id=self._task.run_id,
                task_id=self._task.task_id,
                subject_key=self._task.user_id,
            )
        )


def storable(value: Any) -> Any:
    """Plain data without NUL characters, which PostgreSQL's jsonb refuses; they become U+FFFD."""
    body = to_json(value)
    return msgspec.json.decode(_NUL.sub(rb"\1\\ufffd", body)) if b"\\u0000" in body else value


def shortened(value: Any) -> JsonValue:
    """A tool's result as it is recorded: whole, or its size and hash where it is over 64 kB."""
    body = to_json(value)
    if len(body) <= MAX_RECORDED_BYTES:
        return to_builtins(value)  # type: ignore[no-any-return]
    return {
        "truncated": True,
        "size_bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "beginning": body[:1000].decode(errors="replace"),
    }
