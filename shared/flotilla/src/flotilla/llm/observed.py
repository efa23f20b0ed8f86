"""One model call with its span and metrics.

Source: OpenTelemetry semantic conventions for generative AI, "Inference" client span.
"""

import time

from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from flotilla.llm.model import Completion, CompletionRequest, LanguageModel, OnToken
from flotilla.telemetry import span
from flotilla.telemetry.metrics import LLM_CALL_DURATION, LLM_TOKENS


async def observed_call(
    model: LanguageModel, request: CompletionRequest, on_token: OnToken | None, session_id: str
) -> tuple[Completion, float]:
    """The answer and how long it took, in milliseconds. Prompts and answers stay out of the span."""
    attributes: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": model.provider,
        "gen_ai.request.model": model.name,
        "gen_ai.conversation.id": session_id,
    }
    if request.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = request.max_tokens
    if request.temperature is not None:
        attributes["gen_ai.request.temperature"] = request.temperature
    with span(f"chat {model.name}", kind=SpanKind.CLIENT, attributes=attributes) as active:
        started = time.perf_counter()
        try:
            completion = await model.complete(request, on_token)
        except Exception as error:
            active.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            duration_s = time.perf_counter() - started
            LLM_CALL_DURATION.labels(model.name).observe(duration_s)
        active.set_attributes(
            {
                "gen_ai.response.model": completion.model,
                "gen_ai.response.finish_reasons": [completion.finish_reason],
                "gen_ai.usage.input_tokens": completion.usage.input_tokens,
                "gen_ai.usage.output_tokens": completion.usage.output_tokens,
            }
        )
    LLM_TOKENS.labels(model.name, "input").inc(completion.usage.input_tokens)
    LLM_TOKENS.labels(model.name, "output").inc(completion.usage.output_tokens)
    return completion, duration_s * 1000
