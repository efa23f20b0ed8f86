"""What people think of answers."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, StringConstraints

from gateway.schemas.common import STORABLE, Answer, RequestBody


class FeedbackBody(RequestBody):
    """A verdict on an answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"verdict": "up", "comment": "Exactly what I needed."}]})

    verdict: Literal["up", "down"]
    comment: Annotated[str, StringConstraints(max_length=2000), STORABLE] = ""


class Feedback(Answer):
    """One person's verdict."""

    run_id: str
    given_by: str
    """Issuer and subject of the person."""
    verdict: Literal["up", "down"]
    comment: str
    given_at: datetime


class RunFeedback(Answer):
    """The verdicts on one run."""

    feedback: list[Feedback]


class FeedbackOnRun(Feedback):
    """A verdict, with what it is about."""

    query: str
    cited_uris: list[str]
    """Of the documents that the answer cites."""


class FeedbackList(Answer):
    """A page of verdicts, newest first."""

    feedback: list[FeedbackOnRun]
    next_cursor: str | None
