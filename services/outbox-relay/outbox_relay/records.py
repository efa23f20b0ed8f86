"""Outbox rows as Kafka records: the event's bytes as they are, its key, and two headers.

Headers follow the CloudEvents Kafka binding 1.0.2 in structured mode (`content-type`) and W3C Trace Context.
"""

from types import TracebackType

from aiokafka.producer.message_accumulator import BatchBuilder
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from flotilla.telemetry import context_from_traceparent, is_sampled, span_traceparent
from outbox_relay.rows import OutboxRows

CONTENT_TYPE_HEADER = ("content-type", b"application/cloudevents+json; charset=UTF-8")
TRACEPARENT = "traceparent"
_HEADERS_WITHOUT_TRACE = [CONTENT_TYPE_HEADER]


def fill_record_batch(batch: BatchBuilder, rows: OutboxRows, begin: int, end: int, spans: "ProducerSpans") -> int:
    """Put rows `begin` to `end` (excluded) into `batch` until it is full; give the index after the last one."""
    append = batch.append
    keys, bodies, traceparents = rows.keys, rows.bodies, rows.traceparents
    for index in range(begin, end):
        traceparent = traceparents[index]
        headers = (
            _HEADERS_WITHOUT_TRACE
            if traceparent is None
            else [CONTENT_TYPE_HEADER, (TRACEPARENT, spans.traceparent_header(traceparent))]
        )
        if append(timestamp=None, key=keys[index], value=bodies[index], headers=headers) is None:
            return index
    return end


class ProducerSpans:
    """One producer span per sampled trace in a batch: from filling to Kafka's acknowledgement.

    Without `enabled` (nobody collects spans) each event's own context is passed on.
    """

    def __init__(self, topic: str, partition: int, *, enabled: bool) -> None:
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(partition),
        }
        self._name = f"send {topic}"
        self._enabled = enabled
        self._spans: dict[str, Span] = {}

    def traceparent_header(self, traceparent: str) -> bytes:
        """The `traceparent` header of an event that was made under `traceparent`."""
        if not self._enabled or not is_sampled(traceparent):
            return traceparent.encode()
        span = self._spans.get(traceparent)
        if span is None:
            tracer = trace.get_tracer("flotilla")
            parent = context_from_traceparent(traceparent)
            span = tracer.start_span(self._name, context=parent, kind=SpanKind.PRODUCER, attributes=self._attributes)
            self._spans[traceparent] = span
        return span_traceparent(span).encode()

    def __enter__(self) -> "ProducerSpans":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        for span in self._spans.values():
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR)
            span.end()
