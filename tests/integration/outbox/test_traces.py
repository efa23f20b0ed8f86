"""One trace goes on through the relay: a span per sampled trace and batch, its context in the Kafka header."""

from collections.abc import Awaitable, Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from flotilla.config import KafkaSettings
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from flotilla.telemetry import span
from outbox_relay.records import ProducerSpans
from tests.integration.outbox.conftest import StartRelay
from tests.support.session_events import TENANT, append_messages, create_session, message, read_topic
from tests.support.waiting import eventually

UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What a collector would receive."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


async def test_a_sampled_trace_continues_in_one_span_per_batch(
    pool: Pool,
    kafka: KafkaSettings,
    start_relay: StartRelay,
    spans: InMemorySpanExporter,
    backlog: Callable[[], Awaitable[int]],
) -> None:
    async with tenant_transaction(pool, TENANT) as connection:
        await create_session(connection, "traced")
        with span("making events") as made:
            await append(connection, TENANT, "traced", [message("one"), message("two")])
    await append_messages(pool, "untraced", ["three"])
    async with start_relay(traces=True):

        async def drained() -> bool:
            return await backlog() == 0

        await eventually(drained)
    sent = [s for s in spans.get_finished_spans() if s.kind is SpanKind.PRODUCER]
    assert len(sent) == 1
    assert sent[0].parent is not None
    assert sent[0].parent.span_id == made.get_span_context().span_id
    headers = {logged.session: logged.headers.get("traceparent") for logged in await read_topic(kafka)}
    context = sent[0].get_span_context()
    assert context is not None
    assert headers == {
        "traced": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode(),
        "untraced": None,
    }


def test_an_unsampled_context_is_passed_on_as_it_is(spans: InMemorySpanExporter) -> None:
    with ProducerSpans("topic", 0, enabled=True) as batch:
        assert batch.traceparent_header(UNSAMPLED) == UNSAMPLED.encode()
    assert spans.get_finished_spans() == ()


def test_a_failed_batch_marks_its_spans(spans: InMemorySpanExporter) -> None:
    def fail() -> None:
        with ProducerSpans("topic", 0, enabled=True) as batch:
            batch.traceparent_header(UNSAMPLED[:-2] + "01")
            raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        fail()
    (failed,) = spans.get_finished_spans()
    assert failed.status.status_code is trace.StatusCode.ERROR
