"""OpenTelemetry traces: one trace from the gateway to the audit row.

Context crosses processes as a W3C `traceparent`: in Temporal headers, in the CloudEvent, in Kafka headers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import metrics, propagate, trace
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
from opentelemetry.util.types import AttributeValue

TRACEPARENT = "traceparent"
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
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get(TRACEPARENT)


def context_from_traceparent(traceparent: str | None) -> Context | None:
    """The remote context that `traceparent` names."""
    return propagate.extract({TRACEPARENT: traceparent}) if traceparent else None


def is_sampled(traceparent: str) -> bool:
    """Whether the trace is recorded: the lowest bit of the flags, the last two hexadecimal digits (Trace Context 2)."""
    return traceparent[-1:] in _ODD


def span_traceparent(active: Span) -> str:
    """A span as a `traceparent`."""
    context = active.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: dict[str, AttributeValue] | None = None,
) -> Iterator[Span]:
    """A span that continues `parent` (a `traceparent`) where one is given, else the current one."""
    tracer = trace.get_tracer("flotilla")
    with tracer.start_as_current_span(
        name, context=context_from_traceparent(parent), kind=kind, attributes=attributes
    ) as active:
        yield active
