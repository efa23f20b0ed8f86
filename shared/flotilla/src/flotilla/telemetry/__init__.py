"""Logs, metrics and traces."""

from flotilla.telemetry.logs import configure_logs
from flotilla.telemetry.traces import (
    TRACEPARENT,
    configure_metrics,
    configure_traces,
    context_from_traceparent,
    current_traceparent,
    is_sampled,
    span,
    span_traceparent,
)

__all__ = [
    "TRACEPARENT",
    "configure_logs",
    "configure_metrics",
    "configure_traces",
    "context_from_traceparent",
    "current_traceparent",
    "is_sampled",
    "span",
    "span_traceparent",
]
