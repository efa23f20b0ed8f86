"""Requests that can be sent, and answers that every store holds. An endpoint can say anything, and it is paid for."""

import math
from dataclasses import replace

from flotilla.contracts.tasks import TokenUsage
from flotilla.contracts.values import to_storable, to_storable_text
from flotilla.llm.model import Completion, CompletionRequest, ToolRequest

MOST_TOKENS = 10**12
"""More than any answer has; a sum of a million such counts still fits a bigint."""


def escape_unsendable(request: CompletionRequest) -> CompletionRequest:
    """`request` with the escapes of what UTF-8 can't hold in its messages: tools and documents may bring it in."""
    messages = [replace(message, content=to_storable_text(message.content)) for message in request.messages]
    return replace(request, messages=tuple(messages))


def escape_unstorable(completion: Completion) -> Completion:
    """`completion` with the escapes of what no store holds, without probabilities that are not numbers, and with
    counts of tokens that can be added up."""
    texts = to_storable([completion.text, completion.model, completion.response_id])
    more = to_storable(completion.more)
    calls = to_storable([[call.call_id, call.name, call.arguments] for call in completion.tool_calls])
    finite = all(math.isfinite(logprob) for logprob in completion.logprobs)
    return replace(
        completion,
        text=texts.value[0],
        model=texts.value[1],
        response_id=texts.value[2],
        more=more.value,
        cached_input_tokens=_count(completion.cached_input_tokens),
        tool_calls=tuple(ToolRequest(call_id=i, name=name, arguments=given) for i, name, given in calls.value),
        logprobs=completion.logprobs if finite else (),
        usage=TokenUsage(
            input_tokens=_count(completion.usage.input_tokens),
            output_tokens=_count(completion.usage.output_tokens),
            estimated=bool(completion.usage.estimated),
        ),
        escaped=bool(texts.escaped or calls.escaped or more.escaped),
    )


def _count(tokens: int) -> int:
    return min(max(tokens, 0), MOST_TOKENS)
