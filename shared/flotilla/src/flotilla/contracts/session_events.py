"""What a session's log is made of: five kinds of event, and the typed data of each.

The wire type of a kind is `flotilla.session.<kind>.v1`.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from flotilla.contracts.json_types import JsonObject, JsonValue

SessionEventKind: TypeAlias = Literal["message", "tool_call", "tool_result", "state_change", "error"]
SESSION_EVENT_KINDS: tuple[SessionEventKind, ...] = (
    "message",
    "tool_call",
    "tool_result",
    "state_change",
    "error",
)
SCHEMA_VERSION = 1
"""The version that this code writes; `flotilla.eventstore.upcasters` lifts older ones."""
_PREFIX = "flotilla.session."

FORKED = "forked"
"""The `change` that opens a fork: its first own event, at `at_seq + 1`."""
ROLLED_BACK = "rolled_back"
"""The `change` after which the state is what it was at `details.to_seq`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStateEvent:
    """A session event before it has a place in the log: `flotilla.outbox.append` gives it seq, id and bytes."""

    kind: SessionEventKind
    data: JsonObject
    source: str
    """Who made it: `/agents/research`, `/gateway`, `/workflows/RagAgentWorkflow`."""
    run_id: str | None = None
    task_id: str | None = None
    subject_key: str | None = None
    event_id: str | None = None
    """A UUID where the caller needs a fixed one; else a UUIDv7 is drawn at append."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a passage of an answer comes from."""

    document_id: str
    title: str
    uri: str
    passage_id: str
    start: int
    """Offset in characters of the passage within the document's text."""
    end: int
    score: float
    quote: str = ""
    place: str = ""
    """Where in the document that is: `page 12`, `slide 3`; empty where it has no such parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Data of `message`."""

    role: Literal["user", "assistant", "system"]
    content: str
    sources: list[Source] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """Data of `tool_call`."""

    tool: str
    call_id: str
    args: JsonObject
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """Data of `tool_result`; exactly one follows each `tool_call` with the same `call_id`."""

    tool: str
    call_id: str
    ok: bool
    duration_ms: float
    result: JsonValue = None
    error: str | None = None
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChange:
    """Data of `state_change`: a named change; `set` and `unset` act on the session's variables."""

    change: str
    """What happened, past tense: `run_started`, `run_finished`, `forked`, `rolled_back`, `action_approved`."""
    status: str | None = None
    """The session's status from here on, if it changes."""
    set: JsonObject = field(default_factory=dict)
    unset: list[str] = field(default_factory=list)
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRaised:
    """Data of `error`."""

    type: str
    message: str
    where: str
    """The step or tool that failed."""
    retryable: bool = False
    attempt: int = 1


SessionEventData: TypeAlias = Message | ToolCall | ToolResult | StateChange | ErrorRaised
DATA_OF_KIND: dict[SessionEventKind, type[SessionEventData]] = {
    "message": Message,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
    "state_change": StateChange,
    "error": ErrorRaised,
}


def session_event_type(kind: SessionEventKind) -> str:
    """The wire type of `kind`, e.g. `flotilla.session.tool_call.v1`."""
    return f"{_PREFIX}{kind}.v{SCHEMA_VERSION}"


def session_event_kind(wire_type: str) -> SessionEventKind | None:
    """The kind that `wire_type` names in the version that this code writes; None for any other type."""
    return _KINDS.get(wire_type)


_KINDS: dict[str, SessionEventKind] = {session_event_type(kind): kind for kind in SESSION_EVENT_KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkedFrom:
    """`details` of `state_change{forked}`: whose prefix this session's history is."""

    parent_session_id: str
    at_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBackTo:
    """`details` of `state_change{rolled_back}`."""

    to_seq: int
