"""Carries a trace from the Kafka record into the audit row: a span and a log line per event of a sampled trace."""

from collections.abc import Iterable

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from audit_consumer.records import EventCandidate
from flotilla.telemetry import context_from_traceparent, is_sampled, span_traceparent

log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("flotilla")


class EventSpans:
    """The spans of a batch's sampled events; each such candidate gets its span as `traceparent`."""

    def __init__(self, candidates: Iterable[EventCandidate]) -> None:
        self._spans: dict[tuple[int, int], Span] = {}
        for candidate in candidates:
            if candidate.traceparent is not None:
                candidate.traceparent = self._start_span(candidate, candidate.traceparent)

    def end_all_spans(self) -> None:
        """End all spans: their events are committed, or the batch failed."""
        for span in self._spans.values():
            span.end()

    def log_projected_events(self, appended: Iterable[EventCandidate]) -> None:
        """One line per traced event that is now in the projection."""
        for candidate in appended:
            span = self._spans.get((candidate.partition, candidate.offset))
            if span is not None:
                log.info(
                    "event_projected",
                    trace_id=format(span.get_span_context().trace_id, "032x"),
                    tenant=candidate.tenant_id,
                    session=candidate.session_id,
                    seq=candidate.seq,
                    type=candidate.type,
                )

    def _start_span(self, candidate: EventCandidate, parent: str) -> str | None:
        if not is_sampled(parent):
            return None
        span = _tracer.start_span(
            "project session event",
            context=context_from_traceparent(parent),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.destination.partition.id": str(candidate.partition),
                "messaging.kafka.offset": candidate.offset,
                "session.id": candidate.session_id,
            },
        )
        self._spans[candidate.partition, candidate.offset] = span
        return span_traceparent(span)
