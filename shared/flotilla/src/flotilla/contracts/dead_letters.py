"""Dead letters as people see them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRecord:
    """An entry that could not be handled."""

    dead_letter_id: str
    stream: str
    group: str
    entry_id: str
    task_id: str | None
    session_id: str | None
    run_id: str | None
    event_type: str | None
    reason: str
    """`undecodable`, `unknown_type`, `oversize`, `refused` or `no_answer`."""
    error: str
    attempts: int
    """How often the entry was delivered."""
    created_at: datetime
    redriven_at: datetime | None = None
    discarded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterBody:
    """A dead letter with what it holds; bytes that are not text are shown as `\\xNN`."""

    record: DeadLetterRecord
    body: str
    fields: Mapping[str, str]


REDRIVE_REQUESTED = "flotilla.entry.redrive_requested.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRequested:
    """Data of the entries on `flotilla.redrives`: which dead letter is to be published again."""

    tenant_id: str
    dead_letter_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered:
    """Data of the announcements on `flotilla.dead-letters`."""

    stream: str
    group: str
    entry_id: str
    reason: str
    error: str
    attempts: int
    dead_letter_id: str | None = None
    """The row of `flotilla.dead_letters`; None where there is no database, then `body` holds the entry."""
    body: str | None = None
