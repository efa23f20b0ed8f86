"""Which parts of an event's data are encrypted, and what readers see of them."""

from typing import Any

import pytest

from flotilla.contracts.envelope import from_builtins, to_json
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import DATA_OF_KIND, SESSION_EVENT_KINDS, SessionEventKind, session_event_type
from flotilla.encryption import DataKey, opened_data, sealed_data

KEY = DataKey(bytes(32), "acme", "s")
CANARY = "Pia Ahlers owes 40"
DATA: dict[SessionEventKind, list[dict[str, Any]]] = {
    "message": [{"role": "user", "content": CANARY, "sources": []}],
    "tool_call": [{"tool": "search", "call_id": "c", "agent": "research", "args": {"q": CANARY}}],
    "tool_result": [
        {"tool": "search", "call_id": "c", "ok": True, "duration_ms": 1.5, "result": CANARY, "agent": "research"},
        {"tool": "search", "call_id": "c", "ok": False, "duration_ms": 1.5, "error": CANARY, "result": None},
    ],
    "state_change": [
        {"change": "supplier_chosen", "status": "busy", "set": {"who": CANARY}, "details": {"run_id": CANARY}},
        {"change": "approval_counted", "details": {"action_id": "a", "decision": "approve", "reason": CANARY}},
        {"change": "run_started", "details": {"run_id": "r", "input": {"q": CANARY}}, "unset": [CANARY]},
    ],
    "error": [{"type": "ValueError", "message": CANARY, "where": "step", "retryable": False, "attempt": 2}],
}
ALL = [(kind, data) for kind in SESSION_EVENT_KINDS for data in DATA[kind]]


@pytest.mark.parametrize(("kind", "data"), ALL)
def test_words_are_encrypted_and_shown_again(kind: SessionEventKind, data: dict[str, Any]) -> None:
    sealed = sealed_data(kind, data, KEY, "e")
    assert CANARY.encode() not in to_json(sealed)
    assert opened_data(session_event_type(kind), "e", sealed, KEY, is_erased=False) == data


@pytest.mark.parametrize(("kind", "data"), ALL)
@pytest.mark.parametrize("mark", ["[erased]", "[unreadable]"])
def test_without_the_key_a_mark_takes_their_place(kind: SessionEventKind, data: dict[str, Any], mark: str) -> None:
    sealed = sealed_data(kind, data, KEY, "e")
    shown = opened_data(session_event_type(kind), "e", sealed, None, is_erased=mark == "[erased]")
    from_builtins(shown, DATA_OF_KIND[kind])
    assert mark.encode() in to_json(shown)
    assert CANARY.encode() not in to_json(shown)


@pytest.mark.parametrize(("kind", "data"), ALL)
def test_what_is_recorded_after_the_erasure_is_dropped(kind: SessionEventKind, data: dict[str, Any]) -> None:
    dropped = sealed_data(kind, data, None, "e")
    assert CANARY.encode() not in to_json(dropped)
    assert b"[erased]" in to_json(opened_data(session_event_type(kind), "e", dropped, KEY, is_erased=False))


@pytest.mark.parametrize(("kind", "data"), ALL)
def test_data_of_another_event_is_not_read(kind: SessionEventKind, data: dict[str, Any]) -> None:
    moved = sealed_data(kind, data, KEY, "e")
    assert b"[unreadable]" in to_json(opened_data(session_event_type(kind), "other", moved, KEY, is_erased=False))


def test_what_queries_and_proofs_need_stays_clear() -> None:
    result = sealed_data("tool_result", DATA["tool_result"][0], KEY, "e")
    assert {name: result[name] for name in result if name != "sealed"} == {
        "tool": "search",
        "call_id": "c",
        "ok": True,
        "duration_ms": 1.5,
        "agent": "research",
    }
    vote = sealed_data("state_change", DATA["state_change"][1], KEY, "e")
    assert vote["details"] == {"action_id": "a", "decision": "approve"}
    own = sealed_data("state_change", DATA["state_change"][0], KEY, "e")
    assert (own["change"], own["status"], "details" in own) == ("supplier_chosen", "busy", False)


def test_an_event_without_words_is_recorded_as_it_is() -> None:
    data: JsonObject = {"change": "forked", "details": {"parent_session_id": "p", "at_seq": 3}, "set": {}, "unset": []}
    assert sealed_data("state_change", data, KEY, "e") == data


def test_nothing_that_is_hidden_steers_a_session() -> None:
    hidden = {"change": "rolled_back", "role": "user", "details": {"to_seq": 1}, "content": "x"}
    ciphertext = KEY.seal_text(to_json(hidden), "event/e")
    sealed: JsonObject = {"sealed": ciphertext, "change": "run_finished", "details": {"run_id": "r"}}
    shown = opened_data(session_event_type("state_change"), "e", sealed, KEY, is_erased=False)
    assert (shown["change"], shown["details"]) == ("run_finished", {"run_id": "r"})
    assert "role" not in opened_data(session_event_type("message"), "e", {"sealed": ciphertext}, KEY, is_erased=False)


def test_text_that_an_agent_calls_sealed_is_shown_as_it_is() -> None:
    data = {"change": "noted", "sealed": "my own word"}
    assert opened_data(session_event_type("state_change"), "e", data, KEY, is_erased=False) == data
