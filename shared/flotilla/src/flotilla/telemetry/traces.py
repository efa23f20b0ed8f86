"""OpenTelemetry traces: one trace from the gateway to the audit row.

Context crosses processes as a W3C `traceparent`: in Temporal headers, in the CloudEvent, in Kafka headers.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

TRACEPARENT = "traceparent"
_W3C = TraceContextTextMapPropagator()
_ODD = frozenset("13579bdf")


def configure_traces(service: str, otlp_endpoint: str | None, sample_ratio: float) -> TracerProvider:
    """Install the tracer provider. Without an endpoint spans exist, so that ids flow, but are not exported."""
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: service}), sampler=ParentBasedTraceIdRatio(sample_ratio)
    )
    if otlp_endpoint:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def configure_metrics(service: str, otlp_endpoint: str | None) -> MeterProvider | None:
    """Export OpenTelemetry's metrics where the traces go; None without an endpoint, and then nothing is kept."""
    if not otlp_endpoint:
        return None
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=Resource.create({SERVICE_NAME: service}))
    metrics.set_meter_provider(provider)
    return provider


def current_traceparent() -> str | None:
    """The current span as a `traceparent`, or None outside any span."""
    active = trace.get_current_span()
    return span_traceparent(active) if active.get_span_context().is_valid else None


def context_from_traceparent(traceparent: str | None) -> Context | None:
    """The remote context that `traceparent` names."""
    return _W3C.extract({TRACEPARENT: traceparent}) if traceparent else None


def is_sampled(traceparent: str) -> bool:
    """Whether the trace is recorded: the lowest bit of the flags, the last two hexadecimal digits (Trace Context 2)."""
    return traceparent[-1:] in _ODD


def span_traceparent(active: Span) -> str:
    """A span as a `traceparent`."""
    context = active.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> AbstractContextManager[Span]:
    """A span that continues `parent` (a `traceparent`) where one is given, else the current one; for one `with`."""
    tracer = _tracer_of(trace.get_tracer_provider())
    started = tracer.start_span(name, context=context_from_traceparent(parent), kind=kind, attributes=attributes)
    return trace.use_span(started, end_on_exit=True)


@lru_cache(maxsize=4)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    """The provider makes another one at each call, which takes longer than a span."""
    return provider.get_tracer("flotilla")
