"""`flotilla actions`, `approvals`, `keys`, `agents`, `tasks`, `outbox` against a running fleet."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

Unique = Callable[[str], str]


def submitted(fleet: Fleet, *more: str) -> str:
    """The id of an action that alice submitted."""
    action = fleet.cli_json("actions", "submit", "--action", "echo", "--description", "A trial", *more)
    return str(action["action_id"])


async def action_with(fleet: Fleet, action_id: str, status: str) -> Any:
    """The action, once it has this status."""
    return await until(fleet, f"/actions/{action_id}", lambda action: action if action["status"] == status else None)


async def approval_of(fleet: Fleet, action_id: str) -> Any:
    """What waits for a decision, once it does."""
    return await until(fleet, f"/approvals/{action_id}", lambda approval: approval)


def approved(fleet: Fleet, action_id: str, *more: str, check: bool = True) -> Any:
    """An approval of what is shown now."""
    seen = fleet.cli_json("approvals", "show", action_id)["content_hash"]
    return fleet.cli("approvals", "approve", action_id, "--content-hash", seen, *more, check=check)


async def test_a_script_names_the_hash_of_what_its_person_saw(fleet: Fleet) -> None:
    action_id = submitted(fleet, "--risk", "medium", "--arg", "text=hello")
    await approval_of(fleet, action_id)
    unseen = fleet.cli("approvals", "approve", action_id, "--as", "bob", check=False)
    assert unseen.returncode == 2
    assert "--content-hash" in unseen.stderr
    assert fleet.cli_json("approvals", "show", action_id)["status"] == "pending"


async def test_what_is_shown_hides_nothing_and_has_the_hash_that_is_decided_on(fleet: Fleet) -> None:
    text = "to acct\u009b2J-1\u202e 3\u200b\U000e0041"
    action_id = submitted(fleet, "--risk", "medium", "--arg", "text=" + json.dumps(text))
    approval = await approval_of(fleet, action_id)
    shown = fleet.cli("approvals", "show", action_id).stdout
    assert r"acct\u009b2J-1\u202e 3\u200b\udb40\udc41" in shown.replace("\n", "")
    assert not any(hidden in shown for hidden in "\u009b\u202e\u200b\U000e0041")
    assert hashlib.sha256(approval["content"].encode()).hexdigest() == approval["content_hash"]
    assert json.loads(approval["content"])["args"]["text"] == text


async def test_an_action_of_low_risk_runs_at_once(fleet: Fleet) -> None:
    done = await action_with(fleet, submitted(fleet, "--arg", "text=hello"), "completed")
    assert done["approval_status"] == "not_required"
    assert "hello" in json.dumps(done["result"])
    wrong = ("actions", "submit", "--action", "echo", "--description", "A trial", "--arg", "text2=3")
    refused = fleet.cli(*wrong, check=False)
    assert refused.returncode == 2
    assert "text2" in refused.stderr


async def test_nobody_approves_their_own_request_and_the_other_person_can(fleet: Fleet) -> None:
    action_id = submitted(fleet, "--risk", "high", "--arg", "text=hello")
    await approval_of(fleet, action_id)
    inbox = {one["approval_id"]: one for one in fleet.cli_json("approvals", "list", "--limit", "500")["approvals"]}
    approval = inbox[action_id]
    assert (approval["args"], approval["risk_level"], approval["requested_by"]) == ({"text": "hello"}, "high", "alice")
    own = approved(fleet, action_id, check=False)
    assert own.returncode == 1
    assert "--as alice or bob" in own.stderr
    assert json.loads(approved(fleet, action_id, "--as", "bob", "-o", "json").stdout)["approval_status"] == "approved"
    assert "hello" in json.dumps((await action_with(fleet, action_id, "completed"))["result"])
    assert action_id in fleet.cli("actions", "list").stdout


async def test_a_rejection_needs_a_reason_and_is_final(fleet: Fleet) -> None:
    action_id = submitted(fleet, "--risk", "medium", "--arg", "text=hello")
    await approval_of(fleet, action_id)
    assert fleet.cli("approvals", "reject", action_id, "--as", "bob", check=False).returncode == 2
    fleet.cli("approvals", "reject", action_id, "--reason", "not today", "--as", "bob")
    await action_with(fleet, action_id, "rejected")
    late = approved(fleet, action_id, "--as", "bob", check=False)
    assert late.returncode == 1
    assert "409" in late.stderr
    assert "not today" in fleet.cli("approvals", "show", action_id).stdout


async def test_what_was_edited_is_not_approved_under_the_hash_of_the_old(fleet: Fleet) -> None:
    action_id = submitted(fleet, "--risk", "medium", "--arg", "text=hello")
    seen = (await approval_of(fleet, action_id))["content_hash"]
    fleet.cli("approvals", "edit", action_id, "--arg", "text=goodbye", "--as", "bob")
    shown = fleet.cli_json("approvals", "show", action_id)
    assert shown["args"] == {"text": "goodbye"}
    stale = fleet.cli("approvals", "approve", action_id, "--content-hash", seen, "--as", "bob", check=False)
    assert stale.returncode == 1
    assert approved(fleet, action_id, "--as", "bob", check=False).returncode == 1


async def test_a_key_works_until_it_is_revoked(fleet: Fleet, unique: Unique) -> None:
    name = unique("carol")
    made = fleet.cli_json(
        "keys", "create", "--for", name, "--role", "operator", "--role", "approver", "--expires", "90d"
    )
    assert made["is_person"]
    assert fleet.cli_json("sessions", "list", "--token", made["key"])["sessions"] is not None
    action_id = submitted(fleet, "--risk", "medium", "--arg", "text=hello")
    await approval_of(fleet, action_id)
    approved(fleet, action_id, "--token", made["key"])
    listed = {key["key_id"]: key for key in fleet.cli_json("keys", "list")["keys"]}
    assert listed[made["key_id"]]["name"] == name
    assert made["key"] not in json.dumps(listed)
    refused = fleet.cli("keys", "create", "--for", name, "--role", "viewer", "--as", "alice", check=False)
    assert refused.returncode == 1
    fleet.cli("keys", "revoke", made["key_id"])
    revoked = fleet.cli("sessions", "list", "--token", made["key"], check=False)
    assert revoked.returncode == 1
    assert "401" in revoked.stderr
    assert fleet.cli("keys", "revoke", "k-unknown", check=False).returncode == 3


def test_agents_are_listed_with_their_streams(fleet: Fleet) -> None:
    agents = {agent["name"]: agent for agent in fleet.cli_json("agents", "list")["agents"]}
    assert agents["research"]["stream"] == "flotilla.tasks.research"
    assert agents["write"]["instances"] == 1


@pytest.mark.usefixtures("handbook")
async def test_a_version_that_gets_all_sessions_answers_and_a_drained_one_leaves_them_to_any(fleet: Fleet) -> None:
    question = json.dumps({"query": "Who inspects the mooring lines at Northquay?"})
    steps = ("--step", "research", "--step", "write", "--input", question)
    [alive] = fleet.cli_json("agents", "route", "write")["versions"]
    assert (alive["version"], alive["percent"], alive["instances"]) == ("1", None, 1)
    try:
        [routed] = fleet.cli_json("agents", "route", "write", "--version", "1", "--percent", "100")["versions"]
        assert routed["percent"] == 100
        first = fleet.cli_json("tasks", "submit", *steps)["task_id"]
        assert (await until(fleet, f"/tasks/{first}", lambda task: task["finished_at"] and task))["status"] == "success"
        drained = fleet.cli("agents", "drain", "write", "--version", "1").stdout
        assert "drained" in drained
        second = fleet.cli_json("tasks", "submit", *steps)["task_id"]
        assert (await until(fleet, f"/tasks/{second}", lambda task: task["finished_at"] and task))[
            "status"
        ] == "success"
    finally:
        [cleared] = fleet.cli_json("agents", "route", "write", "--clear")["versions"]
    assert (cleared["percent"], cleared["drained"]) == (None, False)


@pytest.mark.usefixtures("handbook")
async def test_a_pipeline_goes_from_agent_to_agent(fleet: Fleet) -> None:
    steps = ("--step", "research", "--step", "write")
    question = json.dumps({"query": "Who inspects the mooring lines at Northquay?"})
    task_id = fleet.cli_json("tasks", "submit", *steps, "--input", question)["task_id"]
    await until(fleet, f"/tasks/{task_id}", lambda task: task["finished_at"])
    shown = fleet.cli("tasks", "get", task_id).stdout
    assert "harbour master" in shown
    assert "(calibrated)" in shown
    assert fleet.cli("tasks", "submit", *steps, "--input", "[]", check=False).returncode == 2
    steps = ("--step", "research", "--step", "no-agent")
    unknown = fleet.cli("tasks", "submit", *steps, "--input", question, check=False)
    assert unknown.returncode == 2
    assert "no agent no-agent: there are mcp, research, write" in unknown.stderr
    assert fleet.cli("tasks", "get", "no-such-task", check=False).returncode == 3


def test_the_outbox_says_what_waits(fleet: Fleet) -> None:
    assert fleet.cli_json("outbox", "status")["backlog_rows"] >= 0
    assert fleet.cli("outbox", "redrive", "no-such-session", check=False).returncode == 3
