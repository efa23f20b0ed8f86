"""How events and answers look."""

from typing import Any

import pytest

from flotilla_cli.answers import (
    AnswerPrinter,
    failure_reason,
    format_confidence,
    format_model_usage,
    print_answer_details,
)
from flotilla_cli.events import LivePrinter, event_kind, print_events, print_state_diff, summarize_event
from flotilla_cli.live import LiveEvent


def event(kind: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": f"flotilla.session.{kind}.v1", "data": data, "source": "/agents/x", "sequence": 1, **more}


@pytest.mark.parametrize(
    ("kind", "data", "summary"),
    [
        ("message", {"role": "user", "content": "Why?\nReally"}, "user: Why? Really"),
        ("tool_call", {"tool": "search", "args": {"query": "q", "k": 3}}, "search(query='q', k=3)"),
        ("tool_result", {"tool": "search", "ok": True, "duration_ms": 3.4}, "search ok in 3 ms"),
        ("tool_result", {"tool": "search", "ok": False, "error": "gone"}, "search failed: gone"),
        ("state_change", {"change": "forked", "details": {"at_seq": 3}}, 'forked details={"at_seq": 3}'),
        ("state_change", {"change": "run_finished", "status": "idle"}, "run_finished status=idle"),
        ("error", {"type": "ValueError", "where": "write", "message": "no"}, "ValueError in write: no"),
        ("novelty", {"a": 1}, '{"a": 1}'),
    ],
)
def test_each_kind_of_event_in_one_line(kind: str, data: dict[str, Any], summary: str) -> None:
    assert event_kind(event(kind, data)) == kind
    assert summarize_event(event(kind, data)) == summary


def test_events_of_other_types_and_ciphertext_are_shown_as_they_are() -> None:
    assert event_kind({"type": "flotilla.research.completed.v1"}) == "flotilla.research.completed.v1"
    assert summarize_event({"type": "flotilla.session.message.v1", "data": "bm90IGpzb24="}) == "bm90IGpzb24="


def test_a_table_of_events_has_a_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    first = event("message", {"role": "user", "content": "Hi"}, time="2026-01-01T10:00:00.123456Z")
    print_events([first, {**first, "sequence": 2}], "none")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["SEQ", "1", "2"]
    assert "2026-01-01 10:00:00.123" in lines[1]


def token(text: str) -> LiveEvent:
    return LiveEvent("token", "1-0;0", {"text": text, "task_id": "t", "attempt": 1})


def test_tokens_are_written_as_they_come_and_the_answer_not_twice(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter()
    printer.take(token("The head "))
    assert capsys.readouterr().out == "The head "
    printer.take(token("of care."))
    printer.finish_answer("The head of care.")
    assert capsys.readouterr().out == "of care.\n"


def test_an_answer_that_did_not_come_live_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter()
    printer.take(token("The he"))
    printer.finish_answer("The head of care.")
    assert capsys.readouterr().out == "The he\nThe head of care.\n"


def test_a_new_attempt_begins_the_answer_again(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter()
    printer.take(token("Wrong"))
    printer.take(LiveEvent("reset", "", {"task_id": "t", "attempt": 2}))
    printer.take(token("Right"))
    printer.finish_answer("Right")
    seen = capsys.readouterr()
    assert seen.out == "Wrong\nRight\n"
    assert "attempt 2" in seen.err


def test_live_events_a_line_each_and_tokens_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    printer = LivePrinter()
    step = {"step": "research", "status": "started", "attempt": 2, "agent": "research"}
    for one in (
        LiveEvent("step", "", step),
        token("Yes, "),
        token("sir"),
        LiveEvent("session_event", "", event("message", {"role": "user", "content": "Hi"}, sequence=7)),
        LiveEvent("done", "", {"status": "success"}),
    ):
        printer.take(one)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "research", "started", "(attempt", "2)"]
    assert lines[1] == "Yes, sir"
    assert lines[2].split() == ["7", "message", "user:", "Hi"]
    assert lines[3].split() == ["done", "success"]


def test_confidence_says_what_it_is_computed_from() -> None:
    assert format_confidence({"confidence": 0.815, "confidence_basis": "token_logprobs"}) == (
        "Confidence 0.81, from the model's token probabilities (token_logprobs)"
    )
    assert "retrieval_scores" in format_confidence({"confidence": 1, "confidence_basis": "retrieval_scores"})
    assert "unknown" in format_confidence({"confidence": None})


def test_what_the_sources_do_not_support_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    answer = "Cats sleep [1]. Cats fly [1]. Dogs bark."
    statements = [
        {"start": 0, "end": 15, "sources": [1], "supported": True},
        {"start": 16, "end": 29, "sources": [1], "supported": False},
        {"start": 30, "end": 40, "sources": [], "supported": False},
    ]
    dropped = [{"statement": "Dogs bark", "source": {"title": "Cats"}}]
    result = {
        "answer": answer,
        "statements": statements,
        "dropped_citations": dropped,
        "searched_for": "cats? And dogs?",
    }
    print_answer_details(
        {**result, "sources": [], "confidence": 0.5, "confidence_basis": "calibrated", "abstained": False}
    )
    out = capsys.readouterr().out
    assert "Searched for: cats? And dogs?" in out
    assert "Not supported by what it cites: Cats fly [1]." in out
    assert "Not supported by any source: Dogs bark." in out
    assert "Cats says nothing of what it was cited for: Dogs bark" in out
    assert "declined" not in out
    print_answer_details({"answer": "No.", "sources": [], "abstained": True})
    assert "The fleet declined to answer" in capsys.readouterr().out


@pytest.mark.parametrize(("reason", "notice"), [("length", "cut off"), ("refusal", "declined"), ("stop", "")])
def test_an_answer_that_is_not_complete_is_marked(reason: str, notice: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_answer_details({"sources": [], "confidence": 0.5, "model": "m", "usage": {}, "finish_reason": reason})
    out = capsys.readouterr().out
    assert notice in out
    assert ("cut off" in out or "declined" in out) == bool(notice)


def test_tokens_that_were_estimated_are_marked() -> None:
    assert "estimated" in format_model_usage({"model": "m", "usage": {"input_tokens": 3, "estimated": True}})
    assert "estimated" not in format_model_usage({"model": "m", "usage": {"input_tokens": 3}})


def test_sources_are_numbered_as_the_answer_cites_them(capsys: pytest.CaptureFixture[str]) -> None:
    source = {"title": "Refunds", "uri": "h/refunds.md", "start": 10, "end": 90, "score": 3.14159}
    print_answer_details(
        {"sources": [source, {**source, "title": "FAQ"}], "confidence": 0.5, "model": "m", "usage": {}}
    )
    out = capsys.readouterr().out
    assert "[1]  Refunds  h/refunds.md" in out
    assert "[2]  FAQ" in out
    assert "10-90" in out


def test_a_failed_run_says_why() -> None:
    assert failure_reason({"error": {"type": "AuthenticationError", "message": "401"}}) == "AuthenticationError: 401"
    assert failure_reason({"error": "plain"}) == "plain"
    assert failure_reason({}) == "no reason given"


def test_a_difference_is_printed_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    diff = {
        "from_seq": 4,
        "to_seq": 9,
        "status": {"before": "running", "after": "idle"},
        "variables": {"n": {"before": 1, "after": None}},
        "messages_added": [{"seq": 5, "role": "assistant", "content": "Yes."}],
        "tool_calls_removed": [{"seq": 3, "tool": "search", "args": {"query": "q"}}],
        "errors_added": [],
    }
    print_state_diff(diff)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(line[0], " ".join(line[1:])) for line in lines] == [
        ("~", '- status "running" → "idle"'),
        ("~", "- n 1 → null"),
        ("-", "3 tool_call search(query='q')"),
        ("+", "5 message assistant: Yes."),
    ]


def test_where_nothing_differs_it_reports_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_state_diff({"from_seq": 4, "to_seq": 7, "status": None, "variables": {}, "messages_added": []})
    said = capsys.readouterr()
    assert "Nothing differs between event 4 and 7." in said.out + said.err
