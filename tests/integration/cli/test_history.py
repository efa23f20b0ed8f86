"""`flotilla sessions`, `flotilla audit`: the history, travel in it, and its proof."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

Unique = Callable[[str], str]
QUESTION = "When is diesel sold?"


@pytest.fixture
def asked(fleet: Fleet, handbook: str, unique: Unique) -> str:
    """A session with one answered question."""
    session = unique("history")
    fleet.cli("ask", QUESTION, "--session", session)
    return session


def test_events_are_contiguous_and_can_be_cut(fleet: Fleet, asked: str) -> None:
    events = fleet.cli_json("sessions", "events", asked)["events"]
    head = fleet.cli_json("sessions", "show", asked)["head_seq"]
    assert [event["sequence"] for event in events] == list(range(1, head + 1))
    assert fleet.cli_json("sessions", "events", asked, "--from", "2", "--to", "3")["events"] == events[1:3]
    table = fleet.cli("sessions", "events", asked).stdout
    assert len(table.splitlines()) == head + 1
    assert asked in fleet.cli("sessions", "list").stdout


def test_time_travel_by_seq_and_by_time_and_the_difference(fleet: Fleet, asked: str) -> None:
    first = fleet.cli_json("sessions", "events", asked)["events"][0]
    then = fleet.cli_json("sessions", "state", asked, "--at-seq", "1")
    assert [message["content"] for message in then["messages"]] == [QUESTION]
    now = fleet.cli_json("sessions", "state", asked)
    assert len(now["messages"]) == 2
    by_time = fleet.cli_json("sessions", "state", asked, "--at-time", first["time"])
    assert by_time["messages"][0]["content"] == QUESTION
    diff = fleet.cli_json("sessions", "diff", asked, "--from", "1", "--to", str(now["at_seq"]))
    assert [message["role"] for message in diff["messages_added"]] == ["assistant"]
    assert QUESTION in fleet.cli("sessions", "state", asked).stdout


def test_a_fork_shares_the_past_and_a_rollback_erases_nothing(fleet: Fleet, asked: str, unique: Unique) -> None:
    name = unique("fork")
    forked = fleet.cli_json("sessions", "fork", asked, "--at-seq", "1", "--to", name)
    assert (forked["session_id"], forked["parent_session_id"], forked["forked_at_seq"]) == (name, asked, 1)
    assert fleet.cli("sessions", "fork", asked, "--at-seq", "1", "--to", name, check=False).returncode == 1
    before = fleet.cli_json("sessions", "events", asked)["events"]
    fleet.cli("sessions", "rollback", asked, "--to-seq", "1")
    after = fleet.cli_json("sessions", "events", asked)["events"]
    assert after[: len(before)] == before
    assert len(fleet.cli_json("sessions", "state", asked)["messages"]) == 1
    beyond = fleet.cli("sessions", "rollback", asked, "--to-seq", "9999", check=False)
    assert beyond.returncode == 2


@pytest.mark.parametrize("verb", [("show",), ("events",), ("state",), ("fork", "--at-seq", "0")])
def test_an_unknown_session_is_not_found(fleet: Fleet, verb: tuple[str, ...]) -> None:
    name, *options = verb
    done = fleet.cli("sessions", name, "no-such-session", *options, check=False)
    assert done.returncode == 3
    assert "no-such-session" in done.stderr


async def test_a_history_verifies_and_so_does_its_export_until_it_is_changed(
    fleet: Fleet, asked: str, tmp_path: Path
) -> None:
    head = fleet.cli_json("sessions", "show", asked)["head_seq"]
    verdict_path = f"/audit/verify?session_id={asked}"
    await until(fleet, verdict_path, lambda verdict: verdict["sessions"][-1]["anchored_seq"] == head, timeout_s=90)
    export = tmp_path / "export.jsonl"
    fleet.cli("audit", "export", asked, "--to", str(export))
    verdict = fleet.cli_json("audit", "verify", "--file", str(export))
    assert verdict["ok"]
    assert verdict["sessions"][0]["anchored_seq"] == head
    export.write_text(export.read_text().replace("diesel", "petrol"))
    changed = fleet.cli("audit", "verify", "--file", str(export), check=False)
    assert changed.returncode == 1
    assert "event 1" in changed.stderr
    export.write_text(json.dumps({"kind": "nonsense"}))
    assert fleet.cli("audit", "verify", "--file", str(export), check=False).returncode == 2


def test_the_whole_log_verifies_and_has_checkpoints(fleet: Fleet, asked: str) -> None:
    said = fleet.cli("audit", "verify").stdout
    assert asked in said
    assert "The history is what was committed" in said
    assert fleet.cli_json("audit", "checkpoints")["checkpoints"]


def test_nothing_is_parked_and_the_projection_can_be_made_again(fleet: Fleet, asked: str) -> None:
    before = fleet.cli_json("sessions", "events", asked)["events"]
    assert fleet.cli_json("audit", "parked", "list")["parked"] == []
    assert fleet.cli("audit", "parked", "retry", asked, check=False).returncode == 3
    assert fleet.cli_json("audit", "rebuild")["outcome"]["ok"]
    assert fleet.cli_json("sessions", "events", asked)["events"] == before
    assert fleet.cli_json("audit", "verify", "--session", asked)["ok"]


def test_a_session_is_private_until_it_is_shared_and_can_be_handed_over(
    fleet: Fleet, handbook: str, unique: Unique
) -> None:
    session = unique("private")
    fleet.cli("ask", QUESTION, "--session", session, "--as", "alice")
    hidden = fleet.cli("sessions", "show", session, "--as", "bob", check=False)
    assert hidden.returncode == 3

    shared = fleet.cli_json(
        "sessions", "share", session, "--reader", "bob", "--writer", "group:support", "--as", "alice"
    )
    assert [(party["kind"], party["name"]) for party in shared["readers"] + shared["writers"]] == [
        ("user", "bob"),
        ("group", "support"),
    ]
    assert fleet.cli_json("sessions", "show", session, "--as", "bob")["session_id"] == session
    assert not fleet.cli_json("sessions", "access", session, "--as", "bob")["may_share"]

    handed_over = fleet.cli_json("sessions", "transfer", session, "--to", "bob", "--as", "alice")
    assert handed_over["owner"]["name"] == "bob"
    fleet.cli("sessions", "share", session, "--remove", "alice", "--as", "bob")
    assert fleet.cli("sessions", "show", session, "--as", "alice", check=False).returncode == 3
    assert "user:bob" in fleet.cli("sessions", "access", session, "--as", "bob").stdout


def test_sharing_with_nobody_is_a_usage_error(fleet: Fleet, unique: Unique) -> None:
    refused = fleet.cli("sessions", "share", unique("nothing"), check=False)
    assert refused.returncode == 2
    assert "nothing to change" in refused.stderr
