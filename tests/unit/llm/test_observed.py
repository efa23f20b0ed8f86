import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flotilla.llm import ChatMessage, CompletionRequest, ModelRefused
from flotilla.llm.observed import observed_call
from flotilla.testing import FakeModel

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="a secret question"),), max_tokens=99)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


async def test_a_call_is_a_span_by_the_genai_conventions(spans: InMemorySpanExporter) -> None:
    await observed_call(FakeModel("a secret answer"), REQUEST, None, "s1")
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("chat fake", trace.SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "flotilla.testing",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 99,
        "gen_ai.conversation.id": "s1",
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.output_tokens": 3,
    }
    assert "secret" not in span.to_json()


async def test_a_failed_call_says_of_what_kind(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ModelRefused):
        await observed_call(FakeModel(ModelRefused("no")), REQUEST, None, "s1")
    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "ModelRefused"
    assert not span.status.is_ok
