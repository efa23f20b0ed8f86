"""`flotilla runs`, `questions`, `schedules`, `tasks` and `actions` around workflows, against a running fleet."""

import json
from collections.abc import Callable
from typing import Any

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

Unique = Callable[[str], str]


async def asked(fleet: Fleet, run_id: str) -> Any:
    """What the run asks people, once it does."""
    found = await until(fleet, f"/questions?run_id={run_id}&status=open", lambda page: page["questions"])
    return found[0]


async def ended(fleet: Fleet, run_id: str) -> Any:
    return await until(fleet, f"/runs/{run_id}", lambda run: run if run["finished_at"] else None)


async def started(fleet: Fleet, session: str, *more: str) -> str:
    """The id of a run that asks."""
    await until(fleet, "/workflows", lambda page: any(one["name"] == "choose" for one in page["workflows"]))
    run = fleet.cli_json("runs", "start", "choose", "--input", '{"roles": []}', "--session", session, *more)
    return str(run["run_id"])


async def test_a_person_answers_a_question_and_the_run_goes_on(fleet: Fleet, unique: Unique) -> None:
    run_id = await started(fleet, unique("s"))
    question_id = (await asked(fleet, run_id))["question_id"]
    assert question_id in fleet.cli("questions", "list").stdout
    shown = fleet.cli("questions", "show", question_id).stdout
    assert ("Which supplier?" in shown, '"supplier"' in shown) == (True, True)
    wrong = fleet.cli("questions", "answer", question_id, "--arg", "cents=many", check=False)
    assert (wrong.returncode, "supplier" in wrong.stderr) == (2, True)
    nothing = fleet.cli("questions", "answer", question_id, check=False)
    assert nothing.returncode == 2
    answered = fleet.cli_json("questions", "answer", question_id, "--arg", "supplier=North")
    assert (answered["status"], answered["answer"]) == ("answered", {"supplier": "North"})
    whole = fleet.cli_json("questions", "answer", question_id, "--answer", '{"supplier": "North"}')
    assert whole["answered_by"] == "alice"
    assert (await ended(fleet, run_id))["output"] == {"supplier": "North", "how": "answered"}
    assert fleet.cli("questions", "show", "none", check=False).returncode == 3


async def test_a_run_that_waits_for_its_turn_is_listed_and_cancelled(fleet: Fleet, unique: Unique) -> None:
    session = unique("s")
    first = await started(fleet, session)
    await asked(fleet, first)
    second = await started(fleet, session, "--if-active", "enqueue")
    waiting = fleet.cli_json("runs", "list", "--status", "queued", "--session", session)["runs"]
    assert [run["run_id"] for run in waiting] == [second]
    fleet.cli("runs", "cancel", second)
    assert (await ended(fleet, second))["status"] == "cancelled"
    refused = fleet.cli("runs", "start", "choose", "--input", '{"roles": []}', "--session", session, check=False)
    assert refused.returncode == 1
    fleet.cli("runs", "cancel", first)
    assert (await ended(fleet, first))["status"] == "cancelled"
    assert (
        fleet.cli_json("questions", "list", "--run", first, "--status", "all")["questions"][0]["status"] == "cancelled"
    )
    assert fleet.cli_json("runs", "notices", first)["notices"] == []


async def test_a_schedule_is_made_paused_resumed_triggered_and_deleted(fleet: Fleet, unique: Unique) -> None:
    name = unique("digest")
    made = fleet.cli_json(
        "schedules", "create", name, "--query", "Who?", "--cron", "0 6 * * MON-FRI", "--time-zone", "Europe/Berlin"
    )
    assert len(made["next_starts"]) == 5
    assert name in fleet.cli("schedules", "list").stdout
    fleet.cli("schedules", "pause", name, "--note", "holidays")
    paused = fleet.cli_json("schedules", "show", name)
    assert (paused["paused"], paused["note"]) == (True, "holidays")
    fleet.cli("schedules", "resume", name)
    fleet.cli("schedules", "trigger", name)
    page = await until(fleet, f"/runs?schedule_id={name}", lambda runs: runs["runs"])
    assert page[0]["query"] == "Who?"
    fleet.cli("schedules", "delete", name)
    assert fleet.cli("schedules", "show", name, check=False).returncode == 3


async def test_a_task_is_listed_and_an_action_is_called_off(fleet: Fleet, unique: Unique) -> None:
    task = fleet.cli_json("tasks", "submit", "--step", "research", "--input", json.dumps({"query": "moorings"}))
    await until(fleet, f"/tasks/{task['task_id']}", lambda one: one if one["status"] == "success" else None)
    assert task["task_id"] in [
        one["task_id"] for one in fleet.cli_json("tasks", "list", "--agent", "research")["tasks"]
    ]
    assert fleet.cli("tasks", "cancel", task["task_id"], check=False).returncode == 1
    action = fleet.cli_json(
        "actions", "submit", "--action", "echo", "--description", "A trial", "--risk", "high", "--arg", "text=hello"
    )
    fleet.cli("actions", "cancel", action["action_id"])
    done = await until(fleet, f"/actions/{action['action_id']}", lambda one: one if one["finished_at"] else None)
    assert done["status"] == "cancelled"
