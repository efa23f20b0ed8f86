"""Messages and items of conversations as clients send them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from gateway.schemas.common import STORABLE, Text

FunctionName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
FILE_ID = r"^file-[A-Za-z0-9]{1,64}$"
Filename: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^/\\]+$"), STORABLE]
CallId: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128), STORABLE]
_Long: TypeAlias = Annotated[str, StringConstraints(max_length=200_000), STORABLE]


BY_FORM = Discriminator(lambda value: "text" if isinstance(value, str) else "parts")
"""Tells a text from a list, so that an error is about what was sent."""


class _Part(BaseModel):
    """A text in a message."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text", "input_text", "output_text"]
    text: Text


class FileRef(BaseModel):
    """A file: one that was sent before, or its content."""

    model_config = ConfigDict(extra="ignore", strict=True)

    file_id: Annotated[str, StringConstraints(pattern=FILE_ID)] | None = None
    file_data: str | None = None
    """Base64, also as a `data:` URL."""
    filename: Filename | None = None
    file_url: None = Field(default=None, description="Not fetched: send the file, or its id.")

    @model_validator(mode="after")
    def _check_which(self) -> "FileRef":
        if (self.file_id is None) == (self.file_data is None):
            raise ValueError("give either file_id or file_data with a filename")
        if self.file_data is not None and self.filename is None:
            raise ValueError("file_data needs a filename")
        return self


class _FilePart(FileRef):
    type: Literal["input_file"]

    @property
    def ref(self) -> FileRef:
        """The file."""
        return self


class _ChatFilePart(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["file"]
    file: FileRef

    @property
    def ref(self) -> FileRef:
        """The file."""
        return self.file


_AnyPart: TypeAlias = Annotated[_Part | _FilePart | _ChatFilePart, Field(discriminator="type")]
_Texts: TypeAlias = Annotated[
    Annotated[_Long, Tag("text")] | Annotated[list[_Part], Field(max_length=100), Tag("parts")], BY_FORM
]
_Content: TypeAlias = Annotated[
    Annotated[_Long, Tag("text")] | Annotated[list[_AnyPart], Field(max_length=100), Tag("parts")], BY_FORM
]


class CalledFunction(BaseModel):
    """A function, and what a model called it with."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: FunctionName
    arguments: _Long


class ToolCall(BaseModel):
    """A call that a model asked for, in a message of its."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class InputMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Content | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_call_id: CallId | None = None

    @model_validator(mode="after")
    def _check_role(self) -> "InputMessage":
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of role assistant has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of role tool, and no other, has tool_call_id")
        return self

    @property
    def text(self) -> str:
        """The message's text."""
        return text_of(self.content)

    @property
    def files(self) -> list[FileRef]:
        """The files that come with it."""
        parts = self.content if isinstance(self.content, list) else []
        return [part.ref for part in parts if not isinstance(part, _Part)]

    @property
    def calls(self) -> list[ToolCall]:
        """The functions that the model called with it."""
        return self.tool_calls or []


class FunctionCall(BaseModel):
    """An item of a response: a call that the model asked for."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: _Long


class FunctionCallOutput(BaseModel):
    """An item that says what a function returned."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function_call_output"]
    call_id: CallId
    output: _Texts


def _kind(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return str(kind)


InputItem: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message="items are of type message, function_call or function_call_output",
    ),
]


def text_of(content: str | Sequence[object] | None) -> str:
    """Return the text of a message's content."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text for part in content if isinstance(part, _Part))


def as_messages(items: Sequence[InputItem]) -> list[InputMessage]:
    """Return items of a response as messages. Calls in a row, and what the model said before them, are one message."""
    messages: list[InputMessage] = []
    for item in items:
        if isinstance(item, InputMessage):
            messages.append(item)
        elif isinstance(item, FunctionCallOutput):
            messages.append(InputMessage(role="tool", content=text_of(item.output), tool_call_id=item.call_id))
        else:
            said = messages.pop() if messages and messages[-1].role == "assistant" else None
            call = ToolCall(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
            calls = [*(said.calls if said else ()), call]
            content = said.content if said else None
            messages.append(InputMessage(role="assistant", content=content, tool_calls=calls))
    return messages


def items_of(messages: Sequence[dict[str, Any]], prefix: str) -> Iterator[dict[str, Any]]:
    """Yield messages of a conversation as items of a response, each with an id that begins with `prefix`."""
    for number, message in enumerate(messages):
        role, text = message["role"], message.get("content")
        item_id = f"{prefix}_{number}"
        if role == "tool":
            yield {
                "id": item_id, "type": "function_call_output", "call_id": message["tool_call_id"], "output": text,
                "status": "completed",
            }  # fmt: skip
            continue
        if text:
            kind = "output_text" if role == "assistant" else "input_text"
            content = [{"type": kind, "text": text, **({"annotations": []} if role == "assistant" else {})}]
            yield {"id": item_id, "type": "message", "role": role, "status": "completed", "content": content}
        for place, call in enumerate(message.get("tool_calls", ())):
            called = call["function"]
            yield {
                "id": f"{item_id}_{place}", "type": "function_call", "call_id": call["id"], "name": called["name"],
                "arguments": called["arguments"], "status": "completed",
            }  # fmt: skip
