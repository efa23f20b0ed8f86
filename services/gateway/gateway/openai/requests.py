"""What clients send, and the question and the conversation in it."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, Tag

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Invalid
from flotilla.contracts.tasks import Turn
from gateway.openai.errors import ContextTooLong
from gateway.openai.formats import Format, TextOptions
from gateway.openai.functions import WHICH_MODELS, Tools
from gateway.openai.messages import BY_FORM, InputItem, InputMessage, as_messages
from gateway.schemas.common import STORABLE
from gateway.schemas.runs import MAX_QUERY_CHARACTERS

MAX_MESSAGES = 2_000
_VOTE = "mcp_approval_response"
RESPONSE_ID = r"^resp_[A-Za-z0-9][A-Za-z0-9._:-]{0,122}$"
Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64), STORABLE],
        Annotated[str, StringConstraints(max_length=512), STORABLE],
    ],
    Field(max_length=16),
]


def _refuse_votes(items: Any) -> Any:
    if isinstance(items, list) and any(isinstance(one, dict) and one.get("type") == _VOTE for one in items):
        raise ValueError(f"{_VOTE} is not a vote: people decide in the console or at /v1/approvals")
    return items


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class _Request(Tools):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, StringConstraints(min_length=1, max_length=200), STORABLE]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(max_length=256), STORABLE] | None = None
    metadata: Metadata | None = None


class ChatRequest(_Request):
    """`POST /chat/completions`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "flotilla/rag", "messages": [{"role": "user", "content": "Who may approve a refund?"}]}
            ]
        }
    )

    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
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

    input: Annotated[
        Annotated[str, StringConstraints(max_length=200_000), STORABLE, Tag("text")]
        | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES), Tag("parts")],
        BY_FORM,
        BeforeValidator(_refuse_votes),
    ]
    background: bool | None = None
    text: TextOptions | None = None
    instructions: Annotated[str, StringConstraints(max_length=200_000), STORABLE] | None = None
    previous_response_id: Annotated[str, StringConstraints(pattern=RESPONSE_ID)] | None = None

    @property
    def format(self) -> dict[str, Any] | None:
        """What the answer is to look like; None for text."""
        return self.text.format.parameters if self.text else None

    @property
    def messages(self) -> list[InputMessage]:
        """The input as messages."""
        if isinstance(self.input, str):
            return [InputMessage(role="user", content=self.input)]
        return as_messages(self.input)


def last_message_text(messages: Sequence[InputMessage]) -> str:
    """Return the last message's text.

    Raises:
        Invalid: it is not the user's, is blank or too long, or there are functions of the caller.
    """
    if any(one.role == "tool" or one.calls for one in messages):
        raise Invalid(f"this model takes no output of a function: {WHICH_MODELS}")
    last = messages[-1]
    text = last.text
    if last.role != "user" or not text.strip():
        raise Invalid("the last message has to be a question of role user, with text")
    if len(text) > MAX_QUERY_CHARACTERS:
        raise ContextTooLong(f"the last message has {len(text)} characters, {MAX_QUERY_CHARACTERS} are allowed")
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


def answered_part(messages: Sequence[InputMessage]) -> Sequence[InputMessage]:
    """Return the messages up to the last one of the assistant: what was answered before."""
    last = max((place for place, one in enumerate(messages) if one.role == "assistant"), default=-1)
    return messages[: last + 1]


def conversation_digest(user: str | None, messages: Sequence[InputMessage]) -> bytes:
    """Return what identifies a conversation up to these messages."""
    said: list[Any] = []
    for one in messages:
        calls = [call.id for call in one.calls]
        said.append([one.role, one.text.strip(), calls] if calls else [one.role, one.text.strip()])
    return hashlib.sha256(to_json([user, said])).digest()


def request_digest(door: str, body: BaseModel) -> bytes:
    """Return what makes two requests the same one."""
    return hashlib.sha256(to_json([door, body.model_dump(mode="json")])).digest()
