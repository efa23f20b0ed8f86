"""Questions that workflows ask people."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from flotilla.contracts.questions import MAX_ANSWER_BYTES, QuestionStatus
from gateway.schemas.common import Answer, JsonBody, RequestBody, limit_json_size


class Question(Answer):
    """A question, and what was answered."""

    model_config = ConfigDict(populate_by_name=True)

    question_id: str
    session_id: str
    run_id: str
    question: str
    answer_schema: dict[str, Any] = Field(alias="schema", serialization_alias="schema")
    """JSON schema of the answer."""
    roles: list[str]
    """Who answers has one of these; empty: operators who may write to the session."""
    status: QuestionStatus
    deadline_at: datetime | None
    answer: dict[str, Any] | None
    answered_by: str | None
    acted_by: str | None
    """The service that answered on that person's behalf."""
    created_at: datetime
    closed_at: datetime | None
    """When it was answered, expired or was called off."""


class QuestionList(Answer):
    """A page of questions, newest first."""

    questions: list[Question]
    next_cursor: str | None


class AnswerBody(RequestBody):
    """An answer. Who answers is the token's subject."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"answer": {"supplier": "Nord"}}]})

    answer: Annotated[JsonBody, limit_json_size(MAX_ANSWER_BYTES)]
    """As the question's schema says."""
