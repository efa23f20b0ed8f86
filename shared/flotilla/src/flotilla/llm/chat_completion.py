"""An answer in OpenAI's form: as one document, or as the chunks of a stream.

Source: OpenAI API reference, "The chat completion object" and "The chat completion chunk object".
"""

import json
from collections.abc import Iterator
from typing import Any

from flotilla.llm.model import Completion

_END = b"data: [DONE]\n\n"


def completion_document(completion: Completion, head: dict[str, Any]) -> dict[str, Any]:
    """The answer as one document. `head` has its `id`, `created` and `model`."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": _content(completion), **_beside(completion)},
        "finish_reason": _finish_reason(completion),
        "logprobs": _logprobs(completion),
    }
    return {**head, "object": "chat.completion", "choices": [choice], "usage": openai_usage(completion)}


def text_chunk(text: str, head: dict[str, Any]) -> bytes:
    """A piece of the answer's text, as an event of the stream."""
    return _event(head, [_choice({"role": "assistant", "content": text})])


def final_chunks(completion: Completion, head: dict[str, Any], *, with_usage: bool) -> Iterator[bytes]:
    """What follows the text: calls of tools and other fields, why it ended, the usage, and the end of the stream."""
    delta = _beside(completion)
    for number, call in enumerate(delta.get("tool_calls", ())):
        call["index"] = number
    if delta:
        yield _event(head, [_choice({"role": "assistant", **delta})])
    yield _event(
        head, [{**_choice({}), "finish_reason": _finish_reason(completion), "logprobs": _logprobs(completion)}]
    )
    if with_usage:
        yield _event(head, [], usage=openai_usage(completion))
    yield _END


def openai_usage(completion: Completion) -> dict[str, Any]:
    """The tokens in OpenAI's form."""
    usage = completion.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": completion.cached_input_tokens},
    }


def _content(completion: Completion) -> str | None:
    if completion.finish_reason == "refusal" or (completion.tool_calls and not completion.text):
        return None
    return completion.text


def _beside(completion: Completion) -> dict[str, Any]:
    """The message's fields beside its text."""
    fields = {name: value for name, value in completion.more.items() if name != "logprobs"}
    if completion.finish_reason == "refusal":
        fields["refusal"] = completion.text
    if completion.tool_calls:
        fields["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in completion.tool_calls
        ]
    return fields


def _finish_reason(completion: Completion) -> str:
    return "stop" if completion.finish_reason == "refusal" else completion.finish_reason


def _logprobs(completion: Completion) -> dict[str, Any] | None:
    return {"content": completion.more["logprobs"]} if "logprobs" in completion.more else None


def _choice(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


def _event(head: dict[str, Any], choices: list[dict[str, Any]], **more: Any) -> bytes:
    document = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"
