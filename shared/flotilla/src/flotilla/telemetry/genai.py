"""OpenTelemetry's conventions for generative AI: the names of spans, attributes and metrics that this code uses.

Prompts, answers, arguments and results are in none of them.
Source: OpenTelemetry semantic-conventions-genai v0.1.0, "Client inference", "Invoke agent", "Execute tool".
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import Histogram
from opentelemetry.trace import Span, SpanKind
from opentelemetry.util.types import AttributeValue

from flotilla.telemetry.traces import span

INFERENCE_DURATION = "gen_ai.client.inference.duration"
INPUT_TOKENS = "gen_ai.client.inference.usage.input_tokens"
CACHED_INPUT_TOKENS = "gen_ai.client.inference.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.client.inference.usage.output_tokens"
INVOKE_AGENT_DURATION = "gen_ai.invoke_agent.duration"
EXECUTE_TOOL_DURATION = "gen_ai.execute_tool.duration"
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4.0**n for n in range(14))
_OF_METRICS = ("gen_ai.", "server.", "error.type")
_NOT_OF_METRICS = frozenset(
    (
        "gen_ai.conversation.id",
        "gen_ai.request.max_tokens",
        "gen_ai.request.temperature",
        "gen_ai.response.id",
        "gen_ai.tool.call.id",
    )
)
"""Different from call to call: a metric would have as many series as calls."""


@contextmanager
def genai_span(
    name: str, metric: str, attributes: Mapping[str, AttributeValue], *, kind: SpanKind = SpanKind.INTERNAL
) -> Iterator[Span]:
    """A span with its duration as a metric. An error is named by its class in both; a pause is none."""
    of_metric = {key: value for key, value in attributes.items() if _is_of_metrics(key)}
    started = time.perf_counter()
    with span(name, kind=kind, attributes=dict(attributes)) as active:
        try:
            yield active
        except Exception as error:
            of_metric["error.type"] = type(error).__name__
            active.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            _histogram(metric, "s", _SECONDS).record(time.perf_counter() - started, of_metric)


def record_token_usage(metric: str, tokens: int, attributes: Mapping[str, AttributeValue]) -> None:
    """Record the tokens of one call."""
    of_metric = {key: value for key, value in attributes.items() if _is_of_metrics(key)}
    _histogram(metric, "{token}", _TOKENS).record(tokens, of_metric)


def _is_of_metrics(key: str) -> bool:
    return key.startswith(_OF_METRICS) and key not in _NOT_OF_METRICS


@cache
def _histogram(name: str, unit: str, bounds: tuple[float, ...]) -> Histogram:
    """The instrument: one per name, since without a provider OpenTelemetry keeps all that are ever asked for."""
    return metrics.get_meter("flotilla").create_histogram(
        name, unit=unit, explicit_bucket_boundaries_advisory=list(bounds)
    )
