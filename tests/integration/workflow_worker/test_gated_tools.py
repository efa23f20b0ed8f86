"""A task that calls a gated tool pauses with nothing held, and goes on with the verdict."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from flotilla.agent import Agent, ApprovalRefused, TaskContext
from flotilla.contracts.approvals import DECIDE_UPDATE, Decision, DecisionAnswer, DecisionRequest, content_hash
from flotilla.contracts.ids import new_id
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import agent_group, task_stream
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.tasks import ResearchResult, ResearchTask
from flotilla.workflows.calls.delegation import EndedTaskReference
from tests.integration.workflow_worker import agents
from tests.support.agents import running
from tests.support.foreign_agent import foreign_agent
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker
from workflow_worker.activities.gated_calls import GatedCallActivities

PENDING = "SELECT * FROM flotilla.approvals WHERE status = 'pending' ORDER BY approval_id"


@dataclass(frozen=True)
class Sent:
    text: str


class Mailer:
    """An agent with one gated tool and one that is not."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.runs = 0
        self.texts = ["one"]
        self.agent = Agent("research", version="1")
        self.agent.tool(approval="medium")(self._tool())
        self.agent.task(self._task())

    def _tool(self) -> Any:
        async def send_mail(text: str) -> Sent:
            """Sends a mail to everybody."""
            self.sent.append(text)
            return Sent(text)

        return send_mail

    def _task(self) -> Any:
        async def research(ctx: TaskContext, task: ResearchTask) -> ResearchResult:
            self.runs += 1
            sent = await asyncio.gather(*(ctx.tool("send_mail", text=text) for text in self.texts))
            assert all(isinstance(mail, dict) for mail in sent)
            return ResearchResult(query=task.query, passages=[])

        return research


@pytest.fixture
async def mailer(worker: RunningWorker) -> AsyncIterator[Mailer]:
    it = Mailer()
    async with (
        running(it.agent, worker.pool, worker.redis),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        yield it


async def decide(
    worker: RunningWorker,
    approval: Any,
    decision: Decision = "approve",
    *,
    args: JsonObject | None = None,
    subject: str = "bob",
    seen: JsonObject | None = None,
) -> DecisionAnswer:
    shown = content_hash(approval["action"], seen) if seen else approval["content_hash"]
    attempt = DecisionRequest(
        approval_id=approval["approval_id"],
        attempt_id=new_id(),
        subject=subject,
        roles=["approver"],
        is_person=True,
        decision=decision,
        content_hash=shown,
        reason="because",
        args=args,
    )
    handle = worker.client.get_workflow_handle(approval["workflow_id"])
    answer: DecisionAnswer = await handle.execute_update(
        DECIDE_UPDATE, attempt, id=new_id(), result_type=DecisionAnswer
    )
    return answer


async def pending(worker: RunningWorker, count: int = 1) -> list[Any]:
    """The open approvals, once there are `count`."""

    async def enough() -> bool:
        return len(await worker.rows("acme", PENDING)) == count

    await eventually(enough, timeout_s=30)
    return await worker.rows("acme", PENDING)


async def test_an_approved_call_is_made_once_and_the_run_goes_on(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    assert (approval["action"], approval["on_behalf_of"]) == ("research.send_mail", "alice")
    assert approval["requested_by"] == "/agents/research"
    assert mailer.sent == []

    async def interrupted() -> bool:
        return bool((await worker.run_row(question))["status"] == "interrupted")

    await eventually(interrupted)
    await decide(worker, approval)
    await handle.result()
    assert (mailer.sent, mailer.runs) == (["one"], 2)
    assert (await worker.run_row(question))["status"] == "success"
    events = await worker.events("acme", question.session_id)
    calls = [event for event in events if event.type == "flotilla.session.tool_call.v1"]
    assert len(calls) == 1
    assert "flotilla.session.error.v1" not in [event.type for event in events]


async def test_ten_pauses_open_at_once_each_get_their_verdict(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    mailer.texts = [f"mail {number}" for number in range(10)]
    handle = await worker.start_run(question)
    approvals = await pending(worker, 10)
    held = await worker.redis.xpending(task_stream("research"), agent_group("research"))
    assert held["pending"] == 0  # nobody's hands are full while people think
    for approval in approvals:
        await decide(worker, approval)
    await handle.result()
    assert sorted(mailer.sent) == sorted(mailer.texts)
    assert mailer.runs == 2


async def test_what_a_call_returned_is_kept_while_a_later_one_waits(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    async def one_after_the_other(ctx: TaskContext, task: ResearchTask) -> ResearchResult:
        for text in ("one", "two", "one"):
            await ctx.tool("send_mail", text=text)
        return ResearchResult(query=task.query, passages=[])

    mailer.agent._function = one_after_the_other
    handle = await worker.start_run(question)
    for made in range(3):
        [approval] = await pending(worker)
        states = {row["status"]: row["n"] for row in await worker.rows("acme", STATES)}
        assert states == {"awaiting_approval": 1} | ({"completed": made} if made else {})
        await decide(worker, approval)
    await handle.result()
    assert mailer.sent == ["one", "two", "one"]


async def test_a_rejected_call_is_never_made(worker: RunningWorker, mailer: Mailer, question: RAGRequest) -> None:
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    await decide(worker, approval, "reject")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == ApprovalRefused.__name__
    assert mailer.sent == []
    assert (await worker.run_row(question))["status"] == "error"


async def test_the_person_an_agent_works_for_cannot_approve_its_calls(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    with pytest.raises(Exception, match="Workflow update failed"):
        await decide(worker, approval, subject="alice")
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert await worker.rows("acme", PENDING) == []
    assert (await worker.run_row(question))["status"] == "cancelled"
    assert mailer.sent == []


STATES = "SELECT status, count(*) AS n FROM flotilla.actions GROUP BY status"
ACTIONS = "SELECT action_id, status, approval_status, result, error FROM flotilla.actions ORDER BY action_id"
REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema, timeout_s) VALUES ('research', 'i', '1', 's', 'g', 1, '{}', '{}', $1)
"""


async def changes(worker: RunningWorker, question: RAGRequest) -> list[str]:
    """The session's changes of actions, in order."""
    events = await worker.events("acme", question.session_id)
    found = [str(event.data.get("change", "")) for event in events]
    return [change for change in found if change.startswith("action_")]


async def test_an_approved_call_is_completed_with_what_its_tool_returned(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    await decide(worker, approval)
    await handle.result()
    [action] = await worker.rows("acme", ACTIONS)
    assert (action["status"], json.loads(action["result"])) == ("completed", {"text": "one"})
    assert (await changes(worker, question))[-2:] == ["action_approved", "action_completed"]


async def test_an_approved_call_stays_approved_while_its_agent_is_dead(
    worker: RunningWorker, question: RAGRequest
) -> None:
    first, second = Mailer(), Mailer()
    async with foreign_agent(worker.redis, "write", agents.write):
        async with running(first.agent, worker.pool, worker.redis):
            handle = await worker.start_run(question)
            [approval] = await pending(worker)
        await decide(worker, approval)

        async def approved() -> bool:
            [action] = await worker.rows("acme", ACTIONS)
            return bool(action["status"] == "approved")

        await eventually(approved)
        assert (await changes(worker, question))[-1] == "action_approved"
        async with running(second.agent, worker.pool, worker.redis):
            await handle.result()
    assert (first.sent, second.sent) == ([], ["one"])
    [action] = await worker.rows("acme", ACTIONS)
    assert action["status"] == "completed"


@pytest.mark.parametrize("gives_up", ["by failing", "by ending without it"])
async def test_an_approved_call_that_is_never_made_has_failed(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest, gives_up: str
) -> None:
    await worker.pool.execute(REGISTER, 600.0)
    handle = await worker.start_run(question)
    [approval] = await pending(worker)

    async def another_way(_ctx: TaskContext, task: ResearchTask) -> ResearchResult:
        if gives_up == "by failing":
            raise ValueError("changed my mind")
        return ResearchResult(query=task.query, passages=[])

    mailer.agent._function = another_way
    await decide(worker, approval)
    if gives_up == "by failing":
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    else:
        await handle.result()
    [action] = await worker.rows("acme", ACTIONS)
    assert (action["status"], action["approval_status"], mailer.sent) == ("failed", "approved", [])
    assert "never made this call" in action["error"]
    assert (await changes(worker, question))[-1] == "action_failed"


async def test_a_call_of_a_run_whose_workflow_is_gone_has_failed(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    await handle.terminate()
    calls = GatedCallActivities(worker.pool)
    await worker.rows(
        "acme",
        "UPDATE flotilla.actions SET status = 'approved', finished_at = now() WHERE action_id = $1",
        approval["approval_id"],
    )
    await calls.settle_calls(EndedTaskReference(tenant_id="acme", run_id=question.run_id))
    [action] = await worker.rows("acme", ACTIONS)
    assert action["status"] == "failed"


async def test_a_workflow_waits_as_long_as_its_agents_may_work(worker: RunningWorker, question: RAGRequest) -> None:
    await worker.pool.execute(REGISTER, 3600.0)
    handle = await worker.start_run(question)

    async def scheduled() -> list[float]:
        history = await handle.fetch_history()
        return [
            event.activity_task_scheduled_event_attributes.schedule_to_close_timeout.seconds
            for event in history.events
            if event.HasField("activity_task_scheduled_event_attributes")
        ]

    assert await eventually(scheduled) == [30 * 60 + 3600 - 600]
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def test_arguments_that_no_store_holds_are_shown_and_run_as_their_escapes(
    worker: RunningWorker, mailer: Mailer, question: RAGRequest
) -> None:
    mailer.texts = ["a\x00b\ud800", "\ufffe\U0001f600"]
    handle = await worker.start_run(question)
    approvals = await pending(worker, 2)
    shown = sorted(json.loads(approval["args"])["text"] for approval in approvals)
    assert shown == sorted(["a\\u0000b\\ud800", "\ufffe\U0001f600"])
    for approval in approvals:
        await decide(worker, approval)
    await handle.result()
    assert sorted(mailer.sent) == shown
