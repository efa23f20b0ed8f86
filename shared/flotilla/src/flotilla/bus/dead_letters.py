"""Entries that can't be handled are kept for a person, whole, and the waiting caller is notified.

A dead letter is stored first, then announced and acknowledged in one MULTI; storing it twice changes nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import msgspec

from flotilla.bus.entries import StreamEntry
from flotilla.contracts.dead_letters import DeadLettered
from flotilla.contracts.envelope import AgentEvent, decode_event, to_builtins
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import DEAD_LETTERS_STREAM, EVENT_FIELD, agent_of_stream, reply_stream
from flotilla.contracts.tasks import DEAD_LETTERED, TASK_REPLIED, AgentReply, Failure

DeadLetterReason: TypeAlias = Literal["undecodable", "unknown_type", "oversize", "refused", "no_answer"]
_EVENT_FIELD_BYTES = EVENT_FIELD.encode()
MAX_NAME_CHARS = 1000
MAX_SHOWN_BODY_BYTES = 100_000
"""Of a body in an announcement: it is text there, and each byte may take six."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnhandledEntry:
    """An entry on its way to the dead letters."""

    stream: str
    group: str
    entry: StreamEntry
    reason: DeadLetterReason
    error: str
    trusted: bool = True
    """False for an entry that nobody has shown to be from whom it must be: what it names stays as it is."""

    @property
    def agent(self) -> str | None:
        """The agent whose task stream it was on."""
        return agent_of_stream(self.stream)

    @property
    def body(self) -> bytes:
        """What the field `event` holds; empty when there is none."""
        return self.entry.fields.get(_EVENT_FIELD_BYTES, b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReference:
    """What is known of a task that could not be handled, whatever version it is of."""

    task_id: str
    agent: str = ""
    tenant_id: str | None = None
    session_id: str | None = None
    run_id: str | None = None
    attempt: int = 1
    secret: str | None = None


class DeadLetters(Protocol):
    """Where dead letters are kept."""

    async def keep(self, lost: UnhandledEntry) -> list[tuple[str, AgentEvent]]:
        """Stores `lost`, idempotently by stream and entry id; returns what is to be published about it."""


class StreamDeadLetters:
    """Keeps dead letters on the stream `flotilla.dead-letters` itself, for programs without a database."""

    async def keep(self, lost: UnhandledEntry) -> list[tuple[str, AgentEvent]]:
        """The announcement holds the body, as text (its beginning, if it is large); its durability is that of Redis."""
        shown = lost.body[:MAX_SHOWN_BODY_BYTES].decode(errors="replace")
        return [make_dead_letter_announcement(lost, body=shown), *make_failure_reply(lost)]


def make_dead_letter_announcement(
    lost: UnhandledEntry, *, dead_letter_id: str | None = None, body: str | None = None
) -> tuple[str, AgentEvent]:
    """Tells subscribers of `flotilla.dead-letters` about the entry."""
    event = decode_event_if_possible(lost.body)
    data: JsonObject = to_builtins(
        DeadLettered(
            stream=lost.stream,
            group=lost.group,
            entry_id=lost.entry.entry_id,
            reason=lost.reason,
            error=lost.error,
            attempts=lost.entry.deliveries,
            dead_letter_id=dead_letter_id,
            body=body,
        )
    )
    made = AgentEvent(type=DEAD_LETTERED, source=f"/groups/{lost.group}", subject=lost.entry.entry_id, data=data)
    if event is not None:
        made = replace(
            made, subject=_cut_name(event.subject) or made.subject, tenant=_cut_name(event.tenant),
            runid=_cut_name(event.runid), taskid=_cut_name(event.taskid), traceparent=_cut_name(event.traceparent),
        )  # fmt: skip
    # An agent writes to no stream but its own; the bridge passes it on.
    return DEAD_LETTERS_STREAM if lost.agent is None else reply_stream(lost.agent), made


def _cut_name(name: str | None) -> str | None:
    """A name that is too long for one of ours would only make the announcement too large for its stream."""
    return name if name is not None and len(name) <= MAX_NAME_CHARS else None


def make_failure_reply(lost: UnhandledEntry) -> list[tuple[str, AgentEvent]]:
    """The failure for the caller that waits for the task, so that nobody hangs; none if the entry can't be trusted."""
    task = decode_task_if_possible(lost.body)
    if task is None or lost.agent is None or not lost.trusted or len(task.task_id) > MAX_NAME_CHARS:
        return []
    reply = AgentReply(
        task_id=task.task_id,
        agent=lost.agent,
        tenant_id=task.tenant_id or "",
        session_id=task.session_id or "",
        run_id=task.run_id,
        attempt=task.attempt,
        status="failed",
        persisted=True,
        failure=Failure(type="DeadLetter", message=f"{lost.reason}: {lost.error}", retryable=False),
    )
    event = decode_event_if_possible(lost.body)
    return [
        (
            reply_stream(lost.agent),
            AgentEvent(
                type=TASK_REPLIED,
                source=f"/groups/{lost.group}",
                subject=reply.session_id,
                tenant=task.tenant_id,
                runid=task.run_id,
                taskid=task.task_id,
                traceparent=event.traceparent if event else None,
                data=to_builtins(reply),
            ),
        )
    ]


def decode_event_if_possible(body: bytes) -> AgentEvent | None:
    """The CloudEvent in `body`, if it is one."""
    try:
        return decode_event(body)
    except Undecodable:
        return None


def decode_task_if_possible(body: bytes) -> TaskReference | None:
    """What is known of the task in `body`, if it names one."""
    event = decode_event_if_possible(body)
    if event is None:
        return None
    try:
        return msgspec.convert(event.data, TaskReference)
    except msgspec.ValidationError:
        return None
