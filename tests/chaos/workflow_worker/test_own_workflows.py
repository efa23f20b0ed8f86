"""A team's own workflow under kill -9, installed in a folder outside the repository, and one with a thousand steps."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from flotilla_devstack.ports import free_port
from tests.e2e.fleet import Fleet, finished, session_events
from tests.e2e.stores import query
from tests.integration.workflows import steps
from tests.support.packages import BRIEFINGS, BRIEFINGS_ENTRY_POINTS, write_package
from tests.support.waiting import eventually

RUNS = 20
VICTIMS = (
    "workflow-worker",
    "planner-agent",
    "redis",
    "research-agent",
    "drafter-agent",
    "postgres",
    "critic-agent",
    "temporal",
    "gateway",
    "kafka",
    "outbox-relay",
    "audit-consumer",
    "workflow-worker",
)
POLICY = """
version = "two-people"
[defaults]
roles = ["approver", "admin"]
[actions.publish_brief]
risk = "high"
quorum = 2
"""
AGENT = """
import asyncio
from flotilla.agent import Agent, TaskContext, serve_agent

agent = Agent("{name}")


@agent.task
async def work(ctx: TaskContext, task: dict) -> dict:
    await asyncio.sleep(0.2)
    return {result}


if __name__ == "__main__":
    raise SystemExit(serve_agent(agent))
"""
RESULTS = {
    "planner": '{"questions": [f"{task[\'topic\']}, part {n}" for n in range(4)]}',
    "critic": '{"is_good_enough": ctx.task_id.endswith(":2"), "questions": ["one more"]}',
    "drafter": '{"text": f"over {len(task[\'results\'])} notes"}',
}


def write_agent(folder: Path, name: str) -> Path:
    """Lay the folder of an agent, as `flotilla new agent` does."""
    package = folder / f"{name}-agent" / f"{name}_agent"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(dedent(AGENT).format(name=name, result=RESULTS[name]))
    (package.parent / "service.toml").write_text(f'name = "{name}-agent"\nmodule = "{name}_agent"\nagent = "{name}"\n')
    return package.parent


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A local stack whose virtual environment finds the team's package, with the team's agents."""
    home, own = tmp_path_factory.mktemp("own-fleet"), tmp_path_factory.mktemp("own")
    source = BRIEFINGS.read_text().replace('"write"', '"drafter"')
    write_package(own / "site", "briefings", source, BRIEFINGS_ENTRY_POINTS)
    fan_out = {"flotilla.workflows": {"fan-out": "own_steps:FanOut"}}
    write_package(own / "site", "own_steps", Path(steps.__file__).read_text(), fan_out)
    (own / "policy.toml").write_text(POLICY)
    (own / "published").mkdir()
    environment = {
        "PYTHONPATH": str(own / "site"),
        "FLOTILLA_APPROVAL_POLICY": str(own / "policy.toml"),
        "BRIEFS_FOLDER": str(own / "published"),
        "OPENAI_API_KEY": "",
    }
    RESULTS["echo"] = '{"n": task["n"]}'
    folders = [write_agent(own, name) for name in RESULTS]
    started = Fleet(home, environment)
    try:
        agents = [word for folder in folders for word in ("--agent", str(folder))]
        started.cli("up", "--port", f"gateway.http={free_port()}", *agents)
        yield started
    finally:
        started.down()


async def start(client: httpx.AsyncClient, session_id: str, workflow: str, **data: Any) -> str:
    async def accepted() -> str | None:
        body = {"workflow": workflow, "input": data}
        try:
            answer = await client.post(
                f"/v1/sessions/{session_id}/runs", json=body, headers={"Idempotency-Key": session_id}
            )
        except httpx.TransportError:
            return None
        return answer.json()["run_id"] if answer.is_success else None

    run_id: str = await eventually(accepted, timeout_s=60, every_s=0.3)
    return run_id


async def approve(fleet: Fleet, person: str, count: int) -> None:
    """Let one person approve what waits, until they have approved so many."""
    voted: set[str] = set()

    async def all_approved() -> bool:
        async with fleet.client(person) as client:
            try:
                waiting = (await client.get("/v1/approvals", params={"status": "pending", "limit": 200})).json()
                for one in waiting["approvals"]:
                    if one["approval_id"] in voted:
                        continue
                    path = f"/v1/approvals/{one['approval_id']}/decision"
                    body = {"decision": "approve", "content_hash": one["content_hash"], "reason": "read it"}
                    answer = await client.post(path, json=body)
                    if answer.is_success:
                        voted.add(one["approval_id"])
            except (httpx.TransportError, KeyError, ValueError):
                return False
        return len(voted) >= count

    await eventually(all_approved, timeout_s=480, every_s=1)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_runs_under_kill_9_of_each_process_end_with_everything_done_once(
    fleet: Fleet, unique: Callable[[str], str]
) -> None:
    async with fleet.client("admin") as client:  # a service: alice and bob are people, and may decide
        run_ids = {name: await start(client, name, "brief", topic=name) for name in (unique("s") for _ in range(RUNS))}
        people = [asyncio.create_task(approve(fleet, name, RUNS)) for name in ("bob", "alice")]
        for victim in VICTIMS:
            await fleet.kill(victim)
        await asyncio.gather(*people)
        runs = [await finished(client, run_id) for run_id in run_ids.values()]
        assert Counter(run["status"] for run in runs) == {"success": RUNS}
        for session_id, run_id in run_ids.items():
            events = await session_events(client, session_id)
            changes = Counter(event["data"].get("change") for event in events if event.get("runid") == run_id)
            assert changes["run_step_finished"] == 10, changes
            assert (changes["run_started"], changes["run_finished"], changes["variables_set"]) == (1, 1, 1)
            assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    executed = await query(fleet, "SELECT action_id FROM flotilla.action_executions WHERE action = 'publish_brief'")
    assert sorted(row["action_id"] for row in executed) == sorted(f"{one}.publish_brief" for one in run_ids.values())


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_thousand_asks_in_one_run_stay_within_the_limits_of_a_history(
    fleet: Fleet, unique: Callable[[str], str]
) -> None:
    async with fleet.client("alice") as client:
        run_id = await start(client, unique("s"), "fan-out", count=1000)
        run = await finished(client, run_id, timeout_s=800)
        assert (run["status"], run["output"]) == ("success", {"count": 1000})
        session = await session_events(client, run["session_id"])
    finished_steps = [event for event in session if event["data"].get("change") == "run_step_finished"]
    assert len(finished_steps) >= 998  # of the session's first thousand events
    done = "SELECT count(*) AS n FROM flotilla.agent_tasks WHERE run_id = $1 AND status = 'done'"
    (row,) = await query(fleet, done, run_id)
    assert row["n"] == 1000
    length, size_bytes = await history_of(fleet, run["workflow_id"])
    peak_kb = peak_memory_kb(fleet, "workflow-worker")
    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["created_at"])
    print(f"{took.total_seconds():.0f} s, {length} events, {size_bytes} bytes, the worker's peak {peak_kb} kB")  # noqa: T201
    # A fifth and a tenth of what Temporal ends a workflow at: 51,200 events, 50 MB.
    assert (length < 10_000, size_bytes < 5_000_000, peak_kb < 512_000) == (True, True, True)


def peak_memory_kb(fleet: Fleet, name: str) -> int:
    """The most that a process has had in memory."""
    status = Path(f"/proc/{fleet.process(name)['pid']}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def history_of(fleet: Fleet, workflow_id: str) -> tuple[int, int]:
    """How many events a workflow's history has, and how many bytes."""
    client = await Client.connect(f"127.0.0.1:{fleet.process('temporal')['ports']['grpc']}")
    described = await client.get_workflow_handle(workflow_id).describe()
    return described.history_length, described.raw_description.workflow_execution_info.history_size_bytes
