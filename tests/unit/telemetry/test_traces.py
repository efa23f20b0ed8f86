from unittest.mock import patch

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flotilla.telemetry import current_traceparent, is_sampled, span, span_traceparent

IDS = "00-b1c667378d66197192e3e48d344211e5-cc1a685bcaef7f5e"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_only_the_lowest_flag_says_sampled(flags: str, sampled: bool) -> None:
    assert is_sampled(f"{IDS}-{flags}") is sampled


def _fail(seen: list[str | None]) -> None:
    with span("work", parent=f"{IDS}-01", attributes={"a": "b"}) as active:
        seen += [span_traceparent(active), current_traceparent()]
        raise ValueError("no")


def test_span_is_current_within_and_ended_with_what_was_raised() -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    seen: list[str | None] = []
    with patch.object(trace, "get_tracer_provider", lambda: provider), pytest.raises(ValueError, match="no"):
        _fail(seen)
    (ended,) = exporter.get_finished_spans()
    assert (ended.name, dict(ended.attributes or {}), ended.status.is_ok) == ("work", {"a": "b"}, False)
    assert f"{ended.parent.span_id:016x}" == IDS.split("-")[2]  # type: ignore[union-attr]
    assert seen == [span_traceparent(trace.NonRecordingSpan(ended.context))] * 2
    assert current_traceparent() is None
