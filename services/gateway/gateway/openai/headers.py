"""The headers with which both kinds of request to start a run come, and the question that they make with the body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import Header

from gateway.idempotency import IdempotencyKey
from gateway.openai.records import OpenAIQuestion
from gateway.openai.requests import ChatRequest, ResponsesRequest, earlier_turns, request_digest
from gateway.schemas.common import ID_PATTERN
from gateway.schemas.runs import RunRequest

SessionHeader: TypeAlias = Annotated[
    str | None, Header(alias="Flotilla-Session", pattern=ID_PATTERN, description="The session that the run belongs to.")
]
RetryCount: TypeAlias = Annotated[
    str | None,
    Header(
        alias="X-Stainless-Retry-Count", max_length=10, description="OpenAI's clients: how often they have retried."
    ),
]


@dataclass(frozen=True, slots=True)
class QuestionHeaders:
    """Where the run belongs, and whether the request was sent before."""

    session: SessionHeader = None
    retry_count: RetryCount = None
    idempotency_key: IdempotencyKey = None

    def to_question(
        self,
        door: str,
        body: ChatRequest | ResponsesRequest,
        request: RunRequest,
        *,
        session_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        conversation: bytes = b"",
    ) -> OpenAIQuestion:
        """Return the question that `body` is, which came by `door` and asks for `request`; `session_id` goes before the
        header's."""
        return OpenAIQuestion(
            body=request,
            turns=[] if request.input is not None else earlier_turns(body.messages),
            files=[file for message in body.messages for file in message.files],
            digest=request_digest(door, body),
            parameters=parameters or {},
            session_id=session_id or self.session,
            conversation=conversation,
            is_retry=bool(self.retry_count and self.retry_count.isdecimal() and int(self.retry_count)),
            key=self.idempotency_key,
        )
