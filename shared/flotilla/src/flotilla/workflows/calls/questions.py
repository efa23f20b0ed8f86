"""Names and messages of the activities behind `Run.ask_person`."""

from dataclasses import dataclass, field
from datetime import datetime

from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.questions import QuestionStatus
from flotilla.workflows.calls.runs import RunKey

ASK_QUESTION = "ask_question"
SETTLE_QUESTION = "settle_question"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskQuestion:
    """Puts a question into the inbox; returns `Asked`. `question_id` is the idempotency key."""

    run: RunKey
    question_id: str
    question: str
    schema: JsonObject
    roles: list[str] = field(default_factory=list)
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleQuestion:
    """Returns what came of a question (`Answered`); one that is open becomes `otherwise`."""

    run: RunKey
    question_id: str
    otherwise: QuestionStatus = "open"
