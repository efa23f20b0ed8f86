"""The headers with which both kinds of request to start a run come, and the question that they make with the body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import Header

from gateway.idempotency import IdempotencyKey
from gateway.openai.records import OpenAIQuestion
from gateway.openai.requests import ChatRequest, ResponsesRequest, earlier_turns, last_message_text, request_digest
from gateway.runs.askable import RunTarget
from gateway.schemas.common import ID_PATTERN

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
        asked: RunTarget,
        *,
        session_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        conversation: bytes = b"",
    ) -> OpenAIQuestion:
        """Return the question of `body`, to `asked`, which came by `door`; `session_id` goes before the header's.

        Raises:
            Invalid: the last message is not a question, or not an input of the workflow.
        """
        return OpenAIQuestion(
            body=asked.to_run_request(last_message_text(body.messages)),
            turns=earlier_turns(body.messages),
            digest=request_digest(door, body),
            parameters=parameters or {},
            session_id=session_id or self.session,
            conversation=conversation,
            is_retry=bool(self.retry_count and self.retry_count.isdecimal() and int(self.retry_count)),
            key=self.idempotency_key,
        )
