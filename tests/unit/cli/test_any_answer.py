"""Whatever a gateway answers is shown: no value of JSON makes an error of Python's, or reaches the terminal raw."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_cli.answers import (
    failure_reason,
    format_confidence,
    format_model_usage,
    format_step,
    format_support,
    print_answer_details,
)
from flotilla_cli.events import print_events, print_state_diff, summarize_event
from flotilla_cli.printing import print_fields, print_json, print_json_line
from tests.support.anything import anything, objects
from tests.support.properties import patient

KINDS = ("message", "tool_call", "tool_result", "state_change", "error", "rumour")
FIELDS = (
    "role",
    "content",
    "tool",
    "args",
    "ok",
    "error",
    "duration_ms",
    "change",
    "status",
    "details",
    "type",
    "message",
)
typed = st.fixed_dictionaries({}, optional={name: anything() for name in FIELDS}) | objects
shown_events = st.builds(
    lambda kind, data, seq: {"type": f"flotilla.session.{kind}.v1", "data": data, "sequence": seq, "time": seq},
    st.sampled_from(KINDS),
    typed | anything(),
    anything(),
)


def assert_harmless(text: str) -> None:
    assert text.encode("utf-8")
    assert not set(text) & {"\x00", "\x1b", "\x9b", "\u202e", "\u2028"}


@patient
@given(shown_events)
def test_any_event_has_a_line(event: dict[str, Any]) -> None:
    assert_harmless(summarize_event(event))


@patient
@given(typed, objects)
def test_any_result_and_any_failure_have_theirs(value: dict[str, Any], usage: dict[str, Any]) -> None:
    run = {**value, "confidence": value.get("args"), "usage": usage}
    odd = {"answer": value.get("role"), "statements": [value, usage, value.get("args")], "abstained": value.get("ok")}
    marked = {"supported": False, "start": value.get("args"), "end": value.get("error"), "sources": value.get("ok")}
    for line in format_support({**odd, "statements": [marked], "dropped_citations": [value, usage]}) + format_support(
        odd
    ):
        assert_harmless(line)
    for line in (format_confidence(run), format_model_usage(run), failure_reason(run), format_step(run)):
        assert isinstance(line, str)


@given(objects)
@patient
def test_any_value_is_printed(value: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr("sys.stdout", written)
        print_json(value)
        print_json_line(value)
        print_fields(value)
        print_events([{"type": "t", "data": value, "sequence": 1, "source": value}], "none")
        print_answer_details({**value, "sources": [value], "usage": value})
        print_state_diff({"from_seq": 1, "to_seq": 2, "variables": {"a": {"before": value}}, "errors_added": [value]})
    assert_harmless(written.getvalue())
