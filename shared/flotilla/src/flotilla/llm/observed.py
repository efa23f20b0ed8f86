"""One model call with its span and metrics. Prompts and answers stay out of them.

Source: OpenTelemetry semantic-conventions-genai v0.1.0, "Client inference".
"""

import time

from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from flotilla.llm.model import Completion, CompletionRequest, LanguageModel, OnToken
from flotilla.telemetry import genai
from flotilla.telemetry.metrics import LLM_CALL_DURATION, LLM_TOKENS


async def complete_observed(
    model: LanguageModel, request: CompletionRequest, on_token: OnToken | None, session_id: str
) -> Completion:
    """The answer of `model`."""
    attributes = _asked(model, request, session_id)
    kind = SpanKind.CLIENT
    with genai.genai_span(f"chat {model.name}", genai.INFERENCE_DURATION, attributes, kind=kind) as active:
        started = time.perf_counter()
        try:
            completion = await model.complete(request, on_token)
        finally:
            LLM_CALL_DURATION.labels(model.name).observe(time.perf_counter() - started)
        active.set_attributes(_answered(completion))
    usage = completion.usage
    genai.record_token_usage(genai.INPUT_TOKENS, usage.input_tokens, attributes)
    genai.record_token_usage(genai.OUTPUT_TOKENS, usage.output_tokens, attributes)
    if completion.cached_input_tokens:
        genai.record_token_usage(genai.CACHED_INPUT_TOKENS, completion.cached_input_tokens, attributes)
    LLM_TOKENS.labels(model.name, "input").inc(usage.input_tokens)
    LLM_TOKENS.labels(model.name, "output").inc(usage.output_tokens)
    return completion


def _asked(model: LanguageModel, request: CompletionRequest, session_id: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider,
        "gen_ai.request.model": model.name,
        "gen_ai.conversation.id": session_id,
    }
    if server := getattr(model, "server", None):
        attributes |= {"server.address": server[0], "server.port": server[1]}
    if request.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = request.max_tokens
    if request.temperature is not None:
        attributes["gen_ai.request.temperature"] = request.temperature
    return attributes


def _answered(completion: Completion) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [completion.finish_reason],
        "gen_ai.usage.input_tokens": completion.usage.input_tokens,
        "gen_ai.usage.output_tokens": completion.usage.output_tokens,
    }
    if completion.response_id:
        attributes["gen_ai.response.id"] = completion.response_id
    if completion.cached_input_tokens:
        attributes["gen_ai.usage.cache_read.input_tokens"] = completion.cached_input_tokens
    return attributes
