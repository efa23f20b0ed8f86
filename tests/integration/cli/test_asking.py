"""`flotilla ask` and `flotilla runs`: live answers, across cut connections and Ctrl-C."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.fleet import FLOTILLA, Fleet
from tests.integration.cli.api import until
from tests.integration.cli.proxy import proxy_to
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("handbook")
Unique = Callable[[str], str]
QUESTION = "Who inspects the mooring lines at Northquay?"


def start(fleet: Fleet, *arguments: str) -> subprocess.Popen[str]:
    """`flotilla ARGUMENTS` in the background."""
    return subprocess.Popen(
        [FLOTILLA, *arguments],
        env={**os.environ, **fleet.env, "FLOTILLA_HOME": str(fleet.home), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_answer_comes_with_sources_and_confidence(fleet: Fleet, unique: Unique) -> None:
    done = fleet.cli("ask", QUESTION, "--session", unique("ask"))
    assert "harbour master" in done.stdout.splitlines()[0]
    assert done.stdout.count("harbour master") == 1
    assert "handbook.md" in done.stdout
    assert "Confidence 0." in done.stdout
    assert "(calibrated)" in done.stdout
    assert "research finished" in done.stderr


def test_json_is_the_finished_run_alone(fleet: Fleet, unique: Unique) -> None:
    session = unique("ask")
    run = fleet.cli_json("ask", QUESTION, "--session", session)
    assert run["status"] == "success"
    assert run["session_id"] == session
    assert run["result"]["confidence_basis"] == "calibrated"
    assert run["result"]["sources"]
    assert fleet.cli_json("runs", "get", run["run_id"]) == run


def test_without_a_session_a_new_one_is_made(fleet: Fleet) -> None:
    first, second = (fleet.cli_json("ask", QUESTION)["session_id"] for _ in range(2))
    assert first != second


def test_a_question_can_come_from_standard_input(fleet: Fleet) -> None:
    asking = subprocess.run(
        [FLOTILLA, "ask", "-", "-o", "json"],
        env={**os.environ, **fleet.env, "FLOTILLA_HOME": str(fleet.home)},
        input=QUESTION,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(asking.stdout)["query"] == QUESTION


def test_no_wait_starts_the_run_and_its_events_can_be_followed(fleet: Fleet, unique: Unique) -> None:
    session = unique("ask")
    run = fleet.cli_json("ask", QUESTION, "--session", session, "--no-wait")
    followed = fleet.cli("runs", "events", run["run_id"], "--follow", "-o", "json").stdout
    events = [json.loads(line) for line in followed.splitlines()]
    assert events[-1] == {"event": "done", "id": events[-1]["id"], "data": {"status": "success"}}
    in_log = [event["data"] for event in events if event["event"] == "session_event"]
    assert in_log == fleet.cli_json("runs", "events", run["run_id"])["events"]
    assert [event["sequence"] for event in in_log] == list(range(1, len(in_log) + 1))
    assert [one["run_id"] for one in fleet.cli_json("runs", "list", "--session", session)["runs"]] == [run["run_id"]]


def test_a_run_shows_its_steps_and_attempts(fleet: Fleet) -> None:
    run = fleet.cli_json("ask", QUESTION)
    shown = fleet.cli("runs", "get", run["run_id"]).stdout
    assert "save_to_database" in shown
    assert "research" in shown


async def held_at_the_writer(fleet: Fleet, session: str) -> str:
    """The id of the session's run, once only the writer's answer is missing."""
    await until(fleet, f"/sessions/{session}/events", _is_researched)
    runs = await until(fleet, f"/runs?session_id={session}", lambda page: page["runs"])
    return str(runs[0]["run_id"])


def _is_researched(page: dict[str, Any]) -> bool:
    return any(event["type"].endswith("tool_result.v1") for event in page["events"])


async def status_of(fleet: Fleet, run_id: str) -> Any:
    """The run, once it has ended."""
    return await until(fleet, f"/runs/{run_id}", lambda run: run if run["finished_at"] else None)


async def test_ctrl_c_leaves_the_run_going_and_says_how_to_follow_it(fleet: Fleet, unique: Unique) -> None:
    session = unique("ctrl-c")
    with fleet.paused("writer-agent"):
        asking = start(fleet, "ask", QUESTION, "--session", session)
        run_id = await held_at_the_writer(fleet, session)
        asking.send_signal(signal.SIGINT)
        _, said = asking.communicate(timeout=120)
    assert asking.returncode == 130
    assert f"flotilla runs events {run_id} --follow" in said
    assert f"flotilla runs cancel {run_id}" in said
    assert (await status_of(fleet, run_id))["status"] == "success"


async def test_a_cut_connection_is_taken_up_where_it_broke(fleet: Fleet, unique: Unique) -> None:
    session = unique("cut")
    with proxy_to(fleet.process("gateway")["ports"]["http"]) as proxy:
        with fleet.paused("writer-agent"):
            started = fleet.cli_json("ask", QUESTION, "--session", session, "--no-wait")
            following = start(
                fleet,
                "runs",
                "events",
                started["run_id"],
                "-f",
                "-o",
                "json",
                "--url",
                proxy.url,
                "--token",
                fleet.key(),
            )
            await held_at_the_writer(fleet, session)
            await eventually(lambda: proxy.connections == 1, timeout_s=120)
            proxy.cut()
            await eventually(lambda: proxy.connections > 1, timeout_s=120)
        out, said = following.communicate(timeout=120)
    assert following.returncode == 0, said
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "done"
    seqs = [event["data"]["sequence"] for event in events if event["event"] == "session_event"]
    assert seqs == list(range(1, len(seqs) + 1))
    steps = [(event["data"]["step"], event["data"]["status"]) for event in events if event["event"] == "step"]
    assert len(steps) == len(set(steps)), "a step was shown twice"


async def test_a_killed_gateway_does_not_end_the_asking(fleet: Fleet, unique: Unique) -> None:
    session = unique("killed")
    with fleet.paused("writer-agent"):
        asking = start(fleet, "ask", QUESTION, "--session", session)
        await held_at_the_writer(fleet, session)
        await fleet.kill("gateway")
    out, said = asking.communicate(timeout=120)
    assert asking.returncode == 0, said
    assert out.count("harbour master") == 1


async def test_a_cancelled_run_fails_the_asking(fleet: Fleet, unique: Unique) -> None:
    session = unique("cancel")
    with fleet.paused("writer-agent"):
        asking = start(fleet, "ask", QUESTION, "--session", session)
        run_id = await held_at_the_writer(fleet, session)
        fleet.cli("runs", "cancel", run_id)
    _, said = asking.communicate(timeout=120)
    assert asking.returncode == 1
    assert f"run {run_id} ended with status cancelled" in said


def test_one_run_at_a_time_and_bad_questions_are_refused(fleet: Fleet, unique: Unique) -> None:
    session = unique("busy")
    with fleet.paused("writer-agent"):
        fleet.cli("ask", QUESTION, "--session", session, "--no-wait")
        second = fleet.cli("ask", QUESTION, "--session", session, check=False)
    assert second.returncode == 1
    assert "409" in second.stderr
    empty = fleet.cli("ask", "", check=False)
    assert empty.returncode == 2
    assert "the question is empty" in empty.stderr
    unknown = fleet.cli("runs", "get", "no-such-run", check=False)
    assert unknown.returncode == 3
    assert fleet.cli("ask", "x", "--session", "../etc", check=False).returncode in (2, 3)


def test_a_long_run_of_text_is_not_taken_for_markup(fleet: Fleet, tmp_path: Path, unique: Unique) -> None:
    word = unique("quux")
    (tmp_path / "odd.md").write_text(
        f"# Odd\n\nThe {word} is [bold]not bold[/bold] and [/closed] \x1b[31m never red.\n"
    )
    fleet.cli("documents", "add", str(tmp_path))
    shown = fleet.cli("ask", f"What is the {word}?").stdout
    assert "[bold]not bold[/bold] and [/closed]" in shown
    assert "\x1b" not in shown
