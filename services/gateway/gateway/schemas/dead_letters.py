"""Dead letters."""

from datetime import datetime

from gateway.schemas.common import Answer


class DeadLetter(Answer):
    """An entry of the bus that nobody could handle."""

    dead_letter_id: str
    stream: str
    group: str
    entry_id: str
    task_id: str | None
    session_id: str | None
    run_id: str | None
    event_type: str | None
    reason: str
    error: str
    attempts: int
    created_at: datetime
    redriven_at: datetime | None
    discarded_at: datetime | None


class DeadLetterWithBody(DeadLetter):
    """With what it holds; bytes that are not text are shown as `\\xNN`."""

    body: str
    fields: dict[str, str]


class DeadLetterList(Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Redriven(Answer):
    """The entry is on its stream again, under the same task id."""

    dead_letter_id: str
    entry_id: str


class StreamRedriven(Answer):
    """How many dead letters of the stream are back on it; at most 1,000 at a time."""

    stream: str
    redriven: int


class Discarded(Answer):
    """The dead letter is given up; its row stays as a record."""

    dead_letter_id: str
    discarded: bool
