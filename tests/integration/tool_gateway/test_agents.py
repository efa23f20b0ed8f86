"""MCP tools in an agent's task: the worker has the tool gateway make the calls, once people decided where they must."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.tasks import ResearchTask
from tests.integration.tool_gateway.conftest import Desk
from tests.integration.workflow_worker.test_gated_tools import decide, pending
from tests.support.agents import running
from tests.support.postgres import Database
from tests.support.worker import RunningWorker, running_worker


@dataclass(frozen=True)
class Sums:
    """What the clerk got."""

    answers: list[Any]


class Clerk:
    """An agent whose task calls tools of the server `desk`, all at once."""

    def __init__(self) -> None:
        self.runs = 0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.before: Callable[[], Awaitable[None]] | None = None
        """Runs before the calls."""
        self.agent = Agent("adder", mcp=("desk",))

        @self.agent.task
        async def clerk(ctx: TaskContext, task: ResearchTask) -> Sums:
            self.runs += 1
            if self.before is not None:
                await self.before()
            answers = await asyncio.gather(*(ctx.tool(name, **arguments) for name, arguments in self.calls))
            return Sums(answers=list(answers))


@pytest.fixture
async def worker(
    desk: Desk, database: Database, redis_url: str, temporal_address: str, unique: Callable[[str], str]
) -> AsyncIterator[RunningWorker]:
    """A worker beside the tool gateway."""
    async with running_worker(
        dsn=database.dsn("flotilla_worker"),
        pool=desk.pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=unique("queue"),
        agents=("adder", "mcp"),
    ) as running_it:
        yield running_it


@pytest.fixture
async def clerk(desk: Desk, worker: RunningWorker) -> AsyncIterator[Clerk]:
    it = Clerk()
    await desk.allow_all("acme")
    async with running(it.agent, worker.pool, worker.redis):
        yield it


@pytest.fixture
def question(unique: Callable[[str], str]) -> RAGRequest:
    return RAGRequest(
        query="q", user_id="alice", session_id=unique("s"), tenant_id="acme", run_id=unique("run"), steps=["adder"]
    )


async def output(worker: RunningWorker, question: RAGRequest) -> Any:
    """Return what the run came to."""
    row = await worker.run_row(question)
    assert row["status"] == "success", row["error"]
    return row["output"]


async def test_calls_made_together_are_made_once_and_their_answers_return(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__add", {"a": 1, "b": 2}), ("mcp__desk__add", {"a": 1, "b": 2})]
    await (await worker.start_run(question)).result()
    assert json.loads(await output(worker, question)) == {"answers": [{"result": 3}, {"result": 3}]}
    assert desk.calls() == ["add 1 2", "add 1 2"]
    assert clerk.runs == 2
    events = await worker.events("acme", question.session_id)
    calls = [str(event.data["tool"]) for event in events if event.type == "flotilla.session.tool_call.v1"]
    assert sorted(calls) == ["desk.add", "desk.add", "mcp__desk__add", "mcp__desk__add"]


async def test_a_call_of_risk_is_made_after_people_approved_its_arguments(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__wipe", {"path": "/desk"})]
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    assert (approval["action"], approval["on_behalf_of"]) == ("mcp.desk.wipe", "alice")
    assert desk.calls() == []
    await decide(worker, approval)
    await handle.result()
    assert "wiped /desk" in await output(worker, question)
    assert desk.calls() == ["wipe /desk"]


async def test_what_people_refuse_reaches_the_task_as_a_refusal(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__wipe", {"path": "/"})]
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    await decide(worker, approval, "reject")
    with pytest.raises(Exception, match="failed"):
        await handle.result()
    assert "was not approved" in (await worker.run_row(question))["error"]
    assert desk.calls() == []
