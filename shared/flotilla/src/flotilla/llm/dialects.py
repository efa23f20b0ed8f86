"""How a request is written for an endpoint: OpenAI's chat completions, less what the endpoint does not understand.

Source: OpenAI API reference, "Create chat completion".
"""

from collections.abc import Collection
from typing import Any

from flotilla.config import LlmDialectWord
from flotilla.contracts.json_types import JsonObject
from flotilla.llm.chat_request import LONGEST_ANSWER
from flotilla.llm.model import ChatMessage, CompletionRequest, ToolSpec

_CHOICES = ("auto", "none", "required")


def build_request_body(
    model: str, request: CompletionRequest, dialect: Collection[LlmDialectWord], *, logprobs: bool
) -> dict[str, Any]:
    """Return the JSON body of `request`, streamed unless the dialect says otherwise."""
    if request.body is not None:
        return {**_understood(request.body, dialect), "model": model, **_streaming(dialect)}
    body: dict[str, Any] = {"model": model, "messages": _messages(request, dialect)}
    body |= _streaming(dialect)
    body |= _tools(request, dialect)
    if logprobs:
        body["logprobs"] = True
    if request.max_tokens is not None:
        body["max_completion_tokens" if "max_completion_tokens" in dialect else "max_tokens"] = request.max_tokens
    options: dict[LlmDialectWord, tuple[str, Any]] = {
        "no_temperature": ("temperature", request.temperature),
        "no_response_format": ("response_format", request.response_format),
        "no_seed": ("seed", request.seed),
        "no_stop": ("stop", list(request.stop) or None),
        "no_reasoning": ("reasoning_effort", request.reasoning),
    }
    return body | {name: value for word, (name, value) in options.items() if value is not None and word not in dialect}


_LEFT_OUT: dict[LlmDialectWord, tuple[str, ...]] = {
    "no_temperature": ("temperature",),
    "no_response_format": ("response_format",),
    "no_seed": ("seed",),
    "no_stop": ("stop",),
    "no_reasoning": ("reasoning_effort",),
    "no_tool_choice": ("tool_choice", "parallel_tool_calls"),
    "no_tools": ("tools", "tool_choice", "parallel_tool_calls"),
}


def _understood(body: JsonObject, dialect: Collection[LlmDialectWord]) -> dict[str, Any]:
    """A caller's body as it is, less what the endpoint does not understand."""
    left_out = {name for word in dialect for name in _LEFT_OUT.get(word, ())}
    if "no_tool_choice" in dialect and body.get("tool_choice") == "none":
        left_out.add("tools")
    kept: dict[str, Any] = {name: value for name, value in body.items() if name not in {*left_out, *LONGEST_ANSWER}}
    longest = next((body[name] for name in LONGEST_ANSWER if body.get(name) is not None), None)
    if longest is not None:
        kept[_name_of_longest(body, dialect)] = longest
    if "no_system_role" in dialect:
        kept["messages"] = [_by_user(message) for message in kept["messages"]]
    return kept


def _name_of_longest(body: JsonObject, dialect: Collection[LlmDialectWord]) -> str:
    """As the dialect wants it, else as the caller wrote it."""
    if "max_completion_tokens" in dialect:
        return "max_completion_tokens"
    return next(name for name in LONGEST_ANSWER if body.get(name) is not None)


def _by_user(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"role": "user"} if message.get("role") in ("system", "developer") else message


def _streaming(dialect: Collection[LlmDialectWord]) -> dict[str, Any]:
    if "no_stream" in dialect:
        return {"stream": False}
    if "no_stream_options" in dialect:
        return {"stream": True}
    return {"stream": True, "stream_options": {"include_usage": True}}


def _tools(request: CompletionRequest, dialect: Collection[LlmDialectWord]) -> dict[str, Any]:
    if not request.tools or "no_tools" in dialect:
        return {}
    if "no_tool_choice" in dialect:
        # The only way left to say "none" is to offer nothing.
        return {} if request.tool_choice == "none" else {"tools": [_tool(tool) for tool in request.tools]}
    return {"tools": [_tool(tool) for tool in request.tools], "tool_choice": _choice(request.tool_choice)}


def _choice(choice: str) -> str | dict[str, Any]:
    return choice if choice in _CHOICES else {"type": "function", "function": {"name": choice}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _messages(request: CompletionRequest, dialect: Collection[LlmDialectWord]) -> list[dict[str, Any]]:
    written = [_message(message) for message in request.messages]
    if "no_system_role" in dialect:
        return [message | {"role": "user"} if message["role"] == "system" else message for message in written]
    return written


def _message(message: ChatMessage) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        document["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    images = [{"type": "image_url", "image_url": {"url": image}} for image in message.images]
    return [{"type": "text", "text": message.content}, *images]
