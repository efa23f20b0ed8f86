"""What clients send, and the question and the conversation in it."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.tasks import Turn
from gateway.openai.formats import Format, TextOptions
from gateway.openai.parameters import check_parameters
from gateway.schemas.common import Text
from gateway.schemas.runs import MAX_QUERY_CHARACTERS

MAX_MESSAGES = 2_000
_VOTE = "mcp_approval_response"
RESPONSE_ID = r"^resp_[A-Za-z0-9][A-Za-z0-9._:-]{0,122}$"
Metadata: TypeAlias = Annotated[
    dict[Annotated[Text, StringConstraints(max_length=64)], Annotated[Text, StringConstraints(max_length=512)]],
    Field(max_length=16),
]


class _Part(BaseModel):
    """A part of a message: text only, until the fleet's agents read anything else."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text", "input_text", "output_text"]
    text: Text


class InputMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Text, StringConstraints(max_length=200_000)] | Annotated[list[_Part], Field(max_length=100)]

    @property
    def text(self) -> str:
        """The message's text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None


class _Request(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[Text, StringConstraints(min_length=1, max_length=200)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[Text, StringConstraints(max_length=256)] | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _check_extra(self) -> "_Request":
        check_parameters(self.model_extra or {})
        return self


class ChatRequest(_Request):
    """`POST /chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "flotilla/rag", "messages": [{"role": "user", "content": "Who may approve a refund?"}]}
            ]
        }
    )

    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    response_format: Format | None = None

    @property
    def format(self) -> dict[str, Any] | None:
        """What the answer is to look like; None for text."""
        return self.response_format.parameters if self.response_format else None


class ResponsesRequest(_Request):
    """`POST /responses`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "flotilla/rag", "input": "Who may approve a refund?"}]}
    )

    input: (
        Annotated[Text, StringConstraints(max_length=200_000)]
        | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    )
    background: bool | None = None
    text: TextOptions | None = None
    instructions: Annotated[Text, StringConstraints(max_length=200_000)] | None = None
    previous_response_id: Annotated[str, StringConstraints(pattern=RESPONSE_ID)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_votes(cls, body: Any) -> Any:
        items = body.get("input") if isinstance(body, dict) else None
        if isinstance(items, list) and any(isinstance(one, dict) and one.get("type") == _VOTE for one in items):
            raise ValueError(f"{_VOTE} is not a vote: people decide in the console or at /v1/approvals")
        return body

    @property
    def format(self) -> dict[str, Any] | None:
        """What the answer is to look like; None for text."""
        return self.text.format.parameters if self.text else None

    @property
    def messages(self) -> list[InputMessage]:
        """The input as messages."""
        return [InputMessage(role="user", content=self.input)] if isinstance(self.input, str) else self.input


def last_message_text(messages: Sequence[InputMessage]) -> str:
    """Return the last message's text.

    Raises:
        Invalid: it is not the user's, is blank, or is too long.
    """
    last = messages[-1]
    text = last.text
    if last.role != "user" or not text.strip():
        raise Invalid("the last message has to be a question of role user, with text")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise Invalid(f"the last message has {len(text)} characters, {MAX_QUERY_CHARACTERS} are allowed")
    return text


def earlier_turns(messages: Sequence[InputMessage]) -> list[Turn]:
    """Return the exchanges before the last message, oldest first. System messages are the operator's matter."""
    turns: list[Turn] = []
    question: list[str] = []
    for message in messages[:-1]:
        if message.role == "user":
            question.append(message.text)
        elif message.role == "assistant":
            turns.append(Turn(query="\n".join(question), answer=message.text))
            question = []
    return turns


def conversation_digest(user: str | None, messages: Sequence[InputMessage], answer: str | None = None) -> bytes:
    """Return what identifies a conversation up to these messages, and up to `answer` where it is given."""
    said: list[Any] = [[message.role, message.text.strip()] for message in messages]
    if answer is not None:
        said.append(["assistant", answer.strip()])
    return hashlib.sha256(to_json([user, said])).digest()


def request_digest(door: str, body: BaseModel) -> bytes:
    """Return what makes two requests the same one."""
    return hashlib.sha256(to_json([door, body.model_dump(mode="json")])).digest()
