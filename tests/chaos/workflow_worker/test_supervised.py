"""`supervise` with a model behind an endpoint that is a process: parallel steps, budgets, odd replies, kill -9."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from flotilla.agent.template import write_agent
from tests.chaos.workflow_worker.test_own_workflows import start
from tests.e2e.fleet import Fleet, finished, session_events
from tests.e2e.stub_endpoint import StubEndpoint, stub_endpoint
from tests.support.waiting import eventually

DOCS = Path(__file__).parents[3] / "docs/workflows.md"
AGENT = """
import asyncio
from dataclasses import dataclass
from flotilla.agent import Agent, TaskContext, serve_agent

agent = Agent("{name}")


@dataclass
class Wanted:
    supplier: str


@agent.task
async def work(ctx: TaskContext, wanted: Wanted) -> dict:
    await asyncio.sleep(1.0)
    return {{"{name}": len(wanted.supplier)}}


if __name__ == "__main__":
    raise SystemExit(serve_agent(agent))
"""
POLICY = """
version = "two-people"
[defaults]
roles = ["approver", "admin"]
[actions.echo]
risk = "high"
"""
PRICES = """
currency = "EUR"
[[prices]]
model = "stub"
valid_from = 2020-01-01
input = 1000
cached_input = 1000
output = 1000
"""


def call(name: str, **arguments: Any) -> list[str]:
    return [name, json.dumps(arguments)]


NORTH, SOUTH = call("tariffs", supplier="North"), call("stock", supplier="South!")


@pytest.fixture(scope="module")
def model() -> Iterator[StubEndpoint]:
    with stub_endpoint() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, model: StubEndpoint) -> Iterator[Fleet]:
    """A fleet with the planner as the documentation has it, and two agents that it may ask."""
    own = tmp_path_factory.mktemp("own")
    folders = [_agent(own, name, dedent(AGENT).format(name=name)) for name in ("tariffs", "stock")]
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (planner,) = [code for code in examples if "planner," in code]
    folders.append(_agent(own, "plan", planner))
    (own / "policy.toml").write_text(POLICY)
    (own / "prices.toml").write_text(PRICES)
    environment = {
        "OPENAI_BASE_URL": model.url,
        "OPENAI_API_KEY": "test",
        "FLOTILLA_LLM_MODEL": "stub",
        "FLOTILLA_LLM_TIMEOUT_S": "10",
        "FLOTILLA_LLM_PRICES": str(own / "prices.toml"),
        "FLOTILLA_APPROVAL_POLICY": str(own / "policy.toml"),
    }
    started = Fleet(tmp_path_factory.mktemp("supervised"), environment, agents=tuple(folders))
    try:
        started.up()
        yield started
    finally:
        started.down()


def _agent(folder: Path, name: str, main: str) -> Path:
    package = folder / f"{name}-agent"
    write_agent(name, package)
    (package / f"{name}_agent/main.py").write_text(main)
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o711)  # agents run as users of their own
    return package


async def supervised(client: httpx.AsyncClient, goal: str, **options: Any) -> str:
    """Start a run in a session of its own; returns its id."""
    return await start(client, goal, "supervise", goal=goal, agents=["tariffs", "stock"], **options)


async def choices(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    events = await session_events(client, session_id)
    return [event["data"]["details"] for event in events if event["data"].get("change") == "steps_chosen"]


@pytest.mark.chaos
async def test_agents_chosen_by_a_model_work_in_parallel_and_it_answers_from_what_they_said(
    fleet: Fleet, model: StubEndpoint, unique: Callable[[str], str]
) -> None:
    goal = unique("goal")
    model.follow(goal, {"calls": [NORTH, SOUTH, call("pay", cents=5)]}, {"text": "South, it is."})
    async with fleet.client("alice") as client:
        run = await finished(client, await supervised(client, goal))
        assert run["output"] == {"answer": "South, it is.", "ended": "answered", "rounds": 1, "planner": "stub"}
        (choice,) = await choices(client, run["session_id"])
        assert choice["chosen"] == [
            {"name": "tariffs", "arguments": {"supplier": "North"}},
            {"name": "stock", "arguments": {"supplier": "South!"}},
        ]
        assert [(one["name"], "was not offered" in one["reason"]) for one in choice["refused"]] == [("pay", True)]
        steps = (await client.get(f"/v1/runs/{run['run_id']}/steps")).json()["steps"]
        agents = [one for one in steps if one["kind"] == "delegation" and one["agent"] in ("tariffs", "stock")]
        assert max(one["started_at"] for one in agents) < min(one["finished_at"] for one in agents)
    assert model.requests()[goal] == 2


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("budget", "ended", "rounds"),
    [({"max_tokens": 8}, "tokens", 1), ({"max_cost": 0.005}, "money", 1), ({"max_seconds": 3}, "time", None),
     ({"max_rounds": 2}, "steps", 2)],
)  # fmt: skip
async def test_a_budget_that_is_used_up_in_the_middle_ends_it_and_what_was_done_is_on_record(
    fleet: Fleet,
    model: StubEndpoint,
    unique: Callable[[str], str],
    *,
    budget: dict[str, Any],
    ended: str,
    rounds: int | None,
) -> None:
    goal = unique("goal")
    model.follow(goal, {"calls": [NORTH]})
    async with fleet.client("alice") as client:
        run = await finished(client, await supervised(client, goal, **budget))
        assert (run["status"], run["output"]["ended"], run["output"]["answer"]) == ("success", ended, "")
        made = await choices(client, run["session_id"])
    assert len(made) >= 1
    assert rounds is None or (run["output"]["rounds"], len(made)) == (rounds, rounds)


ODD: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "bad_arguments": ([{"calls": [["tariffs", "{not json"]]}, {"text": "done"}], "done"),
    "arguments_of_another_type": ([{"calls": [["tariffs", "[1]"]]}, {"text": "done"}], "done"),
    "wrong_fields": ([{"calls": [call("tariffs", who=7)]}, {"text": "done"}], "done"),
    "nobodys_name": ([{"calls": [call("delete everything \u0000 now")]}, {"text": "done"}], "done"),
    "itself": ([{"calls": [call("plan", goal="again")]}, {"text": "done"}], "done"),
    "too_many": ([{"calls": [NORTH] * 20}, {"text": "done"}], "done"),
    "empty": ([{"text": ""}], None),
    "garbage": ([{"mode": "garbage"}], None),
    "unauthorized": ([{"calls": [NORTH]}, {"mode": "401"}], None),
}


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", list(ODD))
async def test_an_odd_reply_is_a_refused_step_or_a_run_that_says_why_it_failed(
    fleet: Fleet, model: StubEndpoint, unique: Callable[[str], str], kind: str
) -> None:
    goal, (turns, answer) = unique("goal"), ODD[kind]
    model.follow(goal, *turns)
    async with fleet.client("alice") as client:
        run = await finished(client, await supervised(client, goal), timeout_s=120)
        if answer is not None:
            assert (run["status"], run["output"]["answer"]) == ("success", answer)
        else:
            assert (run["status"], run["error"]["where"].partition(":")[0]) == ("error", "plan")
            assert run["error"]["message"].strip()
            assert "Traceback" not in run["error"]["message"]


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_supervised_runs_under_kill_9_ask_the_model_as_often_as_needed_and_act_once(
    fleet: Fleet, model: StubEndpoint, unique: Callable[[str], str]
) -> None:
    goals = [unique("goal") for _ in range(8)]
    for goal in goals:
        model.follow(goal, {"calls": [NORTH, SOUTH]}, {"calls": [call("echo", text=goal)]}, {"text": "done"})
    async with fleet.client("admin") as client, fleet.client("bob") as bob:
        runs = [await supervised(client, goal, actions=["echo"]) for goal in goals]
        for victim in ("plan-agent", "workflow-worker", "tariffs-agent", "plan-agent", "outbox-relay"):
            await fleet.kill(victim)
        voted: set[str] = set()

        async def all_voted() -> bool:
            waiting = (await bob.get("/v1/approvals", params={"status": "pending", "limit": 200})).json()["approvals"]
            for one in waiting:
                body = {"decision": "approve", "content_hash": one["content_hash"], "reason": "read it"}
                if (await bob.post(f"/v1/approvals/{one['approval_id']}/decision", json=body)).is_success:
                    voted.add(one["approval_id"])
            return len(voted) >= len(goals)

        await eventually(all_voted, timeout_s=240, every_s=1)
        ended = [await finished(client, run_id) for run_id in runs]
        assert Counter(run["status"] for run in ended) == {"success": len(goals)}, [run["error"] for run in ended]
        for run in ended:
            assert (run["output"]["ended"], run["output"]["rounds"]) == ("answered", 2)
            assert len(await choices(client, run["session_id"])) == 2
    asked = model.requests()
    assert all(3 <= asked[goal] <= 6 for goal in goals), asked
