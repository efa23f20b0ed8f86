from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import ChatMessage, Completion, CompletionRequest, ModelRefused
from flotilla.llm.observed import complete_observed
from flotilla.telemetry import genai
from flotilla.testing import FakeModel, run_task

ANSWER = Completion(
    text="a secret answer",
    model="fake-2026",
    usage=TokenUsage(input_tokens=30, output_tokens=3),
    cached_input_tokens=20,
    response_id="chatcmpl-7",
)
REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="a secret question"),), max_tokens=99)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """The unit and the data points of each metric so far."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    monkeypatch.setattr(genai, "_histogram", cache(genai._histogram.__wrapped__))

    def read() -> dict[str, Any]:
        data = reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {one.name: (one.unit, one.data.data_points) for scope in scopes for one in scope.metrics}

    return read


async def test_a_call_is_a_span_by_the_genai_conventions(spans: InMemorySpanExporter) -> None:
    model = FakeModel(ANSWER)
    model.server = ("models.example.com", 443)  # type: ignore[attr-defined]
    assert await complete_observed(model, REQUEST, None, "s1") == ANSWER
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind) == ("chat fake", trace.SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "flotilla.testing",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 99,
        "gen_ai.conversation.id": "s1",
        "server.address": "models.example.com",
        "server.port": 443,
        "gen_ai.response.model": "fake-2026",
        "gen_ai.response.id": "chatcmpl-7",
        "gen_ai.usage.cache_read.input_tokens": 20,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 3,
    }
    assert "secret" not in span.to_json()


async def test_a_failed_call_says_of_what_kind(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ModelRefused):
        await complete_observed(FakeModel(ModelRefused("no")), REQUEST, None, "s1")
    [span] = spans.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "ModelRefused"
    assert not span.status.is_ok


async def test_metrics_have_the_names_and_units_of_the_conventions_and_no_series_per_call(
    points: Callable[[], dict[str, Any]],
) -> None:
    await complete_observed(FakeModel(ANSWER), REQUEST, None, "s1")
    with pytest.raises(ModelRefused):
        await complete_observed(FakeModel(ModelRefused("no")), REQUEST, None, "s2")
    found = points()
    asked = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "flotilla.testing"}
    asked["gen_ai.request.model"] = "fake"
    assert {name: unit for name, (unit, _) in found.items()} == {
        "gen_ai.client.inference.duration": "s",
        "gen_ai.client.inference.usage.input_tokens": "{token}",
        "gen_ai.client.inference.usage.cache_read.input_tokens": "{token}",
        "gen_ai.client.inference.usage.output_tokens": "{token}",
    }
    durations = [dict(point.attributes) for point in found["gen_ai.client.inference.duration"][1]]
    assert sorted(durations, key=len) == [asked, {**asked, "error.type": "ModelRefused"}]
    (tokens,) = found["gen_ai.client.inference.usage.input_tokens"][1]
    assert (tokens.sum, dict(tokens.attributes)) == (30, asked)


async def test_an_agents_invocation_is_the_parent_of_its_tools(
    spans: InMemorySpanExporter, points: Callable[[], dict[str, Any]]
) -> None:
    agent = Agent("clerk", version="7")

    @agent.tool
    async def look(secret: str) -> str:
        return secret

    @agent.task
    async def work(ctx: TaskContext, _given: dict[str, Any]) -> dict[str, Any]:
        return {"said": await ctx.tool("look", secret="a secret")}

    run = await run_task(agent, {})
    tool, invocation = spans.get_finished_spans()
    assert (tool.name, invocation.name) == ("execute_tool look", "invoke_agent clerk")
    assert tool.parent is not None
    assert tool.parent.span_id == invocation.context.span_id
    call_id = run.events[0].data["call_id"]
    assert {**(tool.attributes or {})}["gen_ai.tool.call.id"] == call_id
    assert {**(invocation.attributes or {})}["gen_ai.agent.name"] == "clerk"
    assert "a secret" not in tool.to_json() + invocation.to_json()
    assert set(points()) == {"gen_ai.invoke_agent.duration", "gen_ai.execute_tool.duration"}


def test_an_instrument_is_made_once(points: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's default provider keeps every meter that it is asked for."""
    asked: list[str] = []
    get_meter = metrics.get_meter

    def counted(name: str) -> metrics.Meter:
        asked.append(name)
        return get_meter(name)

    monkeypatch.setattr(metrics, "get_meter", counted)
    for _ in range(3):
        genai.record_token_usage(genai.INPUT_TOKENS, 5, {})
    assert (asked, points()[genai.INPUT_TOKENS][1][0].count) == (["flotilla"], 3)
