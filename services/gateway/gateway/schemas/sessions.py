"""Sessions, and travel in their history."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from flotilla.contracts.session_events import SessionEventKind
from flotilla.eventstore.sessions import SessionKind
from gateway.schemas.common import MAX_SEQ, Answer, Id, JsonBody, RequestBody


class SessionRequest(RequestBody):
    """A new session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"session_id": "handbook"}, {}]})

    session_id: Id | None = None
    """By default a new UUID."""
    metadata: JsonBody = Field(default_factory=dict, max_length=100)


class Session(Answer):
    """A session. `head_seq` is the sequence number of its newest event."""

    session_id: str
    user_id: str
    acted_by: str | None
    """The service that opened it on the user's behalf; null where the user did."""
    head_seq: int
    parent_session_id: str | None
    forked_at_seq: int | None
    created_at: datetime
    metadata: dict[str, Any]
    kind: SessionKind
    """`replay`: a recorded run that was done again, with its effects blocked."""


class SessionList(Answer):
    """A page of sessions, newest first."""

    sessions: list[Session]
    next_cursor: str | None


class Lineage(Answer):
    """A tree of sessions: the root first, then its forks and theirs, oldest first."""

    sessions: list[Session]


class SessionEvents(Answer):
    """Events of the session, as CloudEvents, byte for byte as they were committed."""

    events: list[dict[str, Any]]
    next_seq: int | None
    """`from_seq` of the next page; null when the newest event is in this one."""


class ForkRequest(RequestBody):
    """Where to fork."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"at_seq": 4}]})

    at_seq: int = Field(ge=0, le=MAX_SEQ)
    session_id: Id | None = None
    """The new session's; by default a new UUID."""


class RollbackRequest(RequestBody):
    """Where to go back to."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to_seq": 4}]})

    to_seq: int = Field(ge=0, le=MAX_SEQ)


class RolledBack(Answer):
    """The event that rolled the session back."""

    session_id: str
    to_seq: int
    seq: int
    """Its own sequence number: the history before it is still there."""


class NewEvent(RequestBody):
    """An event to append."""

    kind: SessionEventKind
    data: JsonBody
    """What the kind takes: for a `state_change` `change` and `details`, for a `message` `role` and `content`."""
    run_id: Id | None = None
    """The run of the session that it belongs to."""


class AppendBody(RequestBody):
    """Events to append, all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [{"kind": "state_change", "data": {"change": "supplier_chosen", "details": {"id": 7}}}],
                    "expected_seq": 4,
                }
            ]
        }
    )

    events: Annotated[list[NewEvent], Field(min_length=1, max_length=100)]
    expected_seq: int | None = Field(default=None, ge=0, le=MAX_SEQ)
    """Append only if this is the session's newest event; 409 otherwise."""


class Appended(Answer):
    """Where the events are in the session."""

    session_id: str
    first_seq: int
    last_seq: int
    source: str
    """In whose name they were written."""


class SessionState(Answer):
    """The fold of a session's events up to `at_seq`. Lists are in order of seq."""

    session_id: str
    at_seq: int
    at_time: datetime | None
    """Time of the newest event that counts."""
    status: str | None
    variables: dict[str, Any]
    messages: list[dict[str, Any]]
    tool_calls: list[dict[str, Any]]
    tool_results: list[dict[str, Any]]
    errors: list[dict[str, Any]]


class Change(Answer):
    """A value before and after."""

    before: Any
    after: Any


class StateDiff(Answer):
    """From the state at `from_seq` to the state at `to_seq`; a rollback in between makes things `removed`."""

    session_id: str
    from_seq: int
    to_seq: int
    status: Change | None
    variables: dict[str, Change]
    messages_added: list[dict[str, Any]]
    tool_calls_added: list[dict[str, Any]]
    tool_results_added: list[dict[str, Any]]
    errors_added: list[dict[str, Any]]
    messages_removed: list[dict[str, Any]]
    tool_calls_removed: list[dict[str, Any]]
    tool_results_removed: list[dict[str, Any]]
    errors_removed: list[dict[str, Any]]
