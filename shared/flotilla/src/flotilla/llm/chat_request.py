"""A chat completion request in OpenAI's form, as frameworks and other languages send it.

Source: OpenAI API reference, "Create chat completion".
"""

from collections.abc import Mapping
from typing import Any

from flotilla.contracts.errors import Invalid
from flotilla.contracts.values import to_storable
from flotilla.llm.chat_answer import message_text
from flotilla.llm.model import ChatMessage, CompletionRequest, Role, ToolRequest, ToolSpec

DEFAULT_MODEL = "default"
"""As a model's name: whichever the agent's settings name."""
_HOW_IT_TRAVELS = frozenset(("model", "stream", "stream_options"))
"""Members that change no answer; the model is part of a request's hash by its real name."""
LONGEST_ANSWER = ("max_tokens", "max_completion_tokens")
"""The names of the longest answer, which depend on the endpoint."""
_ROLES: Mapping[object, Role] = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool"}


def parse_chat_request(body: object) -> CompletionRequest:
    """Return the request that a JSON body is.

    Raises:
        Invalid: it is none, or asks for what can't be stored as one answer; the message names the member.
    """
    if not isinstance(body, dict):
        raise Invalid(f"the body is a JSON object, not {type(body).__name__}")
    _check(body)
    try:
        kept: dict[str, Any] = to_storable({k: _plain(v) for k, v in body.items() if k not in _HOW_IT_TRAVELS}).value
    except RecursionError as error:
        raise Invalid("the body is nested too deep") from error
    return CompletionRequest(
        messages=tuple(_message(message) for message in kept["messages"]),
        tools=tuple(_tools(kept.get("tools"))),
        max_tokens=_longest(kept),
        temperature=_number(kept.get("temperature")),
        body=kept,
    )


def _check(body: dict[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise Invalid("messages: a list of at least one message, each an object")
    if body.get("n") not in (None, 1):
        raise Invalid("n: one answer per request; ask again for another one")
    if body.get("modalities") not in (None, ["text"]):
        raise Invalid("modalities: answers are text here")


def _plain(value: Any) -> Any:
    """Numbers that are equal are written alike, whichever client wrote them."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list) else value


def _message(message: dict[str, Any]) -> ChatMessage:
    calls = message.get("tool_calls")
    call_id = message.get("tool_call_id")
    return ChatMessage(
        role=_ROLES.get(message.get("role"), "user"),
        content=message_text(message.get("content")),
        tool_calls=tuple(_call(call) for call in calls) if isinstance(calls, list) else (),
        tool_call_id=call_id if isinstance(call_id, str) else None,
    )


def _call(call: Any) -> ToolRequest:
    function = _function(call)
    call_id = call.get("id") if isinstance(call, dict) else None
    return ToolRequest(
        call_id=str(call_id or ""), name=str(function.get("name", "")), arguments=str(function.get("arguments", ""))
    )


def _tools(tools: Any) -> list[ToolSpec]:
    functions = [_function(tool) for tool in tools] if isinstance(tools, list) else []
    return [
        ToolSpec(
            name=str(function["name"]),
            description=str(function.get("description") or ""),
            parameters=function.get("parameters") or {},
        )
        for function in functions
        if "name" in function
    ]


def _function(entry: Any) -> dict[str, Any]:
    function = entry.get("function") if isinstance(entry, dict) else None
    return function if isinstance(function, dict) else {}


def _longest(body: dict[str, Any]) -> int | None:
    """The length that is sent, whatever its name: what budgets reserve."""
    given = {name: body[name] for name in LONGEST_ANSWER if body.get(name) is not None}
    for name, length in given.items():
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise Invalid(f"{name}: a whole number of tokens, at least 1, not {length!r:.40}")
    if len(set(given.values())) > 1:
        raise Invalid(f"{' and '.join(given)}: give one of them, or the same number")
    return next(iter(given.values()), None)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
