"""Questions that workflows ask people: what is asked, and what becomes of it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from flotilla.contracts.json_types import JsonObject

QuestionStatus: TypeAlias = Literal["open", "answered", "expired", "cancelled"]
MAX_QUESTION_CHARACTERS = 4000
MAX_SCHEMA_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
"""As JSON: the workflow's history keeps it."""
QUESTION_CHANGE = "run_question_"
"""Begins the changes of a session that are about a question: `asked`, `answered`, `expired`, `cancelled`."""

_ANSWER_EVENT = "question:"


def answer_event_name(question_id: str) -> str:
    """Return the name of the event that wakes the workflow up which waits for an answer. It says nothing of the answer:
    the worker reads that from the session's log."""
    return f"{_ANSWER_EVENT}{question_id}"


def is_answer_event(name: str) -> bool:
    """Return whether an event called `name` says that a question was answered."""
    return name.startswith(_ANSWER_EVENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuestion:
    """A question that nobody has answered yet, as a workflow takes it along when it continues as new."""

    question_id: str
    fingerprint: str
    """Of what is asked, and of whom: who asks the same again waits for the same answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of a question."""

    status: QuestionStatus
    answer: JsonObject = field(default_factory=dict)
    answered_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question that is in the inbox, or was."""

    is_open: bool
    deadline: datetime | None = None
