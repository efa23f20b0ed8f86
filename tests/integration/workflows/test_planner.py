"""A team's own workflow in one file of a package outside the repository: plan, research, critic, approval, action."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import ActivityEnvironment

from flotilla.bus import Redis
from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.names import action_workflow_id, run_workflow_id
from flotilla.contracts.requests import WorkflowRequest
from flotilla.workflows.calls.custom import RunEventRecords, RunNote
from flotilla.workflows.calls.runs import RunKey
from tests.integration.approvals.desk import BOB, CAROL, Desk
from tests.support.foreign_agent import Answer, ForeignAgent, Task, foreign_agent, route_to_a_version
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.activities.workflow_runs import WorkflowRunActivities

MakeRequest = Callable[..., WorkflowRequest]


def done(**result: Any) -> dict[str, Any]:
    return {"status": "done", "result": result}


async def plan(task: Task) -> dict[str, Any]:
    return done(questions=[f"{task['input']['topic']}, part {n}" for n in range(4)])


async def research(task: Task) -> dict[str, Any]:
    return done(note=f"about {task['input']['query']}")


async def write(task: Task) -> dict[str, Any]:
    return done(text=f"a draft over {task['input_from']}")


async def critic(task: Task) -> dict[str, Any]:
    is_second = task["task_id"].endswith(":2")
    return done(is_good_enough=is_second, questions=["one more"])


@asynccontextmanager
async def team(redis: Redis, **answers: Answer) -> AsyncIterator[dict[str, ForeignAgent]]:
    """The four agents, with some answers of the test's own."""
    all_answers: dict[str, Answer] = {
        "planner": plan,
        "research": research,
        "write": write,
        "critic": critic,
        **answers,
    }
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(foreign_agent(redis, name, answer))
            for name, answer in all_answers.items()
        }


async def start(worker: RunningWorker, request: WorkflowRequest) -> Any:
    return await worker.client.start_workflow(
        request.workflow, request, id=run_workflow_id(request.run_id), task_queue=worker.task_queue
    )


def texts_in(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.iterdir()]


def changes(events: list[AgentEvent]) -> Counter[str]:
    return Counter(str(event.data.get("change")) for event in events if event.type.startswith("flotilla.session.state"))


def finished_steps(events: list[AgentEvent]) -> dict[str, Any]:
    """The details of the steps that ended, by their names."""
    details: list[Any] = [e.data["details"] for e in events if e.data.get("change") == "run_step_finished"]
    return {one["step"]: one for one in details}


async def test_the_planner_does_everything_once_and_its_history_is_in_the_session(
    worker: RunningWorker, request_of: MakeRequest, published: Path
) -> None:
    request = request_of(topic="harbours")
    desk = Desk(worker.client, worker.pool, worker.task_queue)
    async with team(worker.redis) as agents:
        handle = await start(worker, request)
        vote = worker.client.get_workflow_handle(action_workflow_id(f"{request.run_id}.publish_brief"))
        await eventually(lambda: desk.in_inbox(vote), timeout_s=60)

        async def is_interrupted() -> bool:
            return [row["status"] for row in await worker.rows("acme", "SELECT status FROM flotilla.runs")] == [
                "interrupted"
            ]

        await eventually(is_interrupted, timeout_s=20)
        assert texts_in(published) == []
        text = f"a draft over {request.run_id}.combined:2"
        for voter in (BOB, CAROL):
            await desk.decide(vote, voter, action="publish_brief", seen={"text": text})
        assert await handle.result() == {"text": text, "rounds": 2}
    assert texts_in(published) == [text]
    assert Counter(task["task_id"] for agent in agents.values() for task in agent.seen).most_common(1)[0][1] == 1
    assert {name: len(agent.seen) for name, agent in agents.items()} == {
        "planner": 1,
        "research": 5,
        "write": 2,
        "critic": 2,
    }
    [combined] = await worker.rows(
        "acme", "SELECT result FROM flotilla.agent_tasks WHERE task_id = $1", f"{request.run_id}.combined"
    )
    assert "about harbours, part 3" in combined["result"]
    [row] = await worker.rows("acme", "SELECT status, workflow, output FROM flotilla.runs")
    assert (row["status"], row["workflow"]) == ("success", "brief")
    assert text in row["output"]
    events = await worker.events("acme", request.session_id)
    assert [event.data.get("change") for event in events if event.runid][:1] == ["run_started"]
    seen = changes(events)
    assert seen["run_step_finished"] == 10
    assert seen["run_started"] == seen["run_finished"] == seen["variables_set"] == seen["progress"] == 1
    steps = finished_steps(events)
    assert steps["planner"]["result"] == {"questions": [f"harbours, part {n}" for n in range(4)]}
    assert events[-1].data["change"] == "run_finished"


async def test_a_step_names_the_version_of_its_agent_where_a_route_decided_about_it(
    worker: RunningWorker, request_of: MakeRequest, database: Database
) -> None:
    await route_to_a_version(database, "research", "2")
    request = request_of(topic="harbours")
    async with team(worker.redis), foreign_agent(worker.redis, "research", research, "2"):
        handle = await start(worker, request)

        async def written() -> dict[str, Any] | None:
            found = finished_steps(await worker.events("acme", request.session_id))
            return found if "write" in found else None

        steps = await eventually(written, timeout_s=60)
        await handle.cancel()
    assert "versions" not in steps["planner"]
    assert steps["research:4"]["versions"] == {"research": "2"}


async def test_what_a_run_does_after_it_continued_as_new_is_in_its_history_too(
    worker: RunningWorker, request_of: MakeRequest
) -> None:
    async def echo(task: Task) -> dict[str, Any]:
        return done(**task["input"])

    request = request_of("long", count=0)
    async with foreign_agent(worker.redis, "echo", echo):
        assert await (await start(worker, request)).result() == {"count": 3}
    events = await worker.events("acme", request.session_id)
    assert list(finished_steps(events)) == ["echo", "echo:2", "echo:3", "echo:4"]


async def test_a_record_that_is_written_again_or_too_early_adds_nothing(
    worker: RunningWorker, request_of: MakeRequest
) -> None:
    request = request_of("waiter", count=1)
    handle = await start(worker, request)
    key = RunKey(tenant_id="acme", run_id=request.run_id)

    async def is_running() -> bool:
        return bool(await worker.rows("acme", "SELECT 1 FROM flotilla.runs WHERE status = 'running'"))

    await eventually(is_running, timeout_s=30)
    records = WorkflowRunActivities(worker.pool)
    for number in (1, 1, 3, 2, 1):
        note = RunNote(data={"change": "progress", "details": {"text": str(number)}})
        written = RunEventRecords(run=key, workflow="waiter", number=number, notes=[note])
        await ActivityEnvironment().run(records.record_events, written)
    await handle.cancel()
    events = await worker.events("acme", request.session_id)
    shown = [event.data["details"] for event in events if event.data.get("change") == "progress"]
    assert shown == [{"text": "1"}, {"text": "2"}]


async def test_a_failed_step_ends_the_others_and_names_itself(worker: RunningWorker, request_of: MakeRequest) -> None:
    async def fail_one(task: Task) -> dict[str, Any] | None:
        if task["input"]["query"].endswith("part 2"):
            return {"status": "failed", "failure": {"type": "NoSource", "message": "nothing found", "retryable": False}}
        return None  # never answers

    request = request_of(topic="harbours")
    async with team(worker.redis, research=fail_one) as agents:
        handle = await start(worker, request)

        async def all_cancelled() -> bool:
            for task in list(agents["research"].seen):
                if await worker.redis.exists(f"flotilla.cancelled.{task['task_id']}"):
                    await agents["research"].reply(task, status="cancelled")
            return bool(await worker.rows("acme", "SELECT 1 FROM flotilla.runs WHERE status = 'error'"))

        await eventually(all_cancelled, timeout_s=60)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    [row] = await worker.rows("acme", "SELECT error FROM flotilla.runs")
    assert '"where": "research:3"' in row["error"]
    assert '"type": "NoSource"' in row["error"]
