"""Delegation under late, doubled, stale, wrong and missing answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from flotilla.bus import Delivery, HandlerResult, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import UnknownType
from flotilla.contracts.names import (
    EVENT_FIELD,
    REPLIES_STREAM,
    agent_group,
    cancelled_key,
    reply_stream,
    run_workflow_id,
    task_stream,
)
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.tasks import TASK_REPLIED
from flotilla.postgres import Pool
from tests.integration.workflow_worker import agents
from tests.support.consumers import consuming
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker, running_worker


async def all_replies_handled(worker: RunningWorker) -> bool:
    [group] = await worker.redis.xinfo_groups(reply_stream("write"))
    return (group["lag"], group["pending"]) == (0, 0)


async def dead_letters(worker: RunningWorker) -> list[Any]:
    return await worker.rows("acme", "SELECT reason, error FROM flotilla.dead_letters ORDER BY created_at")


async def test_a_failure_that_may_pass_is_tried_again_as_a_new_try(worker: RunningWorker, question: RAGRequest) -> None:
    async def fail_once(task: Task) -> dict[str, Any]:
        if task["attempt"] == 1:
            return agents.failed("RateLimited", "429", retryable=True)
        return await agents.write(task)

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", fail_once) as writer,
    ):
        await (await worker.start_run(question)).result()
    assert [task["attempt"] for task in writer.seen] == [1, 2]
    task_id = f"{question.run_id}.write"
    assert [task["reply_to"]["activity_id"] for task in writer.seen] == [task_id, f"{task_id}#2"]
    assert (await worker.run_row(question))["status"] == "success"


async def test_a_failure_that_cannot_pass_ends_the_run_at_once_with_its_reason(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async def refuse(_task: Task) -> dict[str, Any]:
        return agents.failed("Unauthorized", "the LLM endpoint answered 401", retryable=False)

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", refuse) as writer,
    ):
        with pytest.raises(WorkflowFailureError) as caught:
            await (await worker.start_run(question)).result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "Unauthorized"
    assert len(writer.seen) == 1
    row = await worker.run_row(question)
    assert row["status"] == "error"
    assert "answered 401" in row["error"]
    events = await worker.events("acme", question.session_id)
    assert [event.type for event in events][-2:] == ["flotilla.session.error.v1", "flotilla.session.state_change.v1"]
    assert events[-2].data["where"] == "write"


async def test_a_run_that_waits_for_a_dead_letter_ends_at_once_with_its_reason(
    worker: RunningWorker, question: RAGRequest
) -> None:
    deliveries: list[int] = []

    async def unknown(delivery: Delivery) -> HandlerResult:
        deliveries.append(delivery.deliveries)
        raise UnknownType("tasks of version 2")

    letters = PostgresDeadLetterStore(worker.pool)
    stream, group = task_stream("research"), agent_group("research")
    async with consuming(worker.redis, stream, unknown, group=group, dead_letters=letters, min_idle_ms=100):
        with pytest.raises(WorkflowFailureError) as caught:
            await (await worker.start_run(question)).result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "DeadLetter"
    row = await worker.run_row(question)
    assert row["status"] == "error"
    assert "unknown_type: tasks of version 2" in row["error"]
    assert [letter["reason"] for letter in await dead_letters(worker)] == ["unknown_type"]
    assert deliveries == [1, 2, 3, 4, 5]  # no new try was published


async def test_a_late_reply_of_an_earlier_try_is_dropped(worker: RunningWorker, question: RAGRequest) -> None:
    async def late(task: Task) -> dict[str, Any] | None:
        if task["attempt"] == 1:
            return agents.failed("RateLimited", "429", retryable=True)
        stale = writer.seen[0]
        await writer.reply(stale, **{**await agents.write(stale), "result": {"answer": "stale"}})
        await eventually(lambda: all_replies_handled(worker))
        return await agents.write(task)

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", late) as writer,
    ):
        answer = await (await worker.start_run(question)).result()
    assert answer.answer.startswith("The harbour master")
    assert await dead_letters(worker) == []


async def test_a_reply_sent_twice_counts_once(worker: RunningWorker, question: RAGRequest) -> None:
    async def twice(task: Task) -> dict[str, Any]:
        first = await agents.write(task)
        await writer.reply(task, **first)
        return {**first, "result": {**first["result"], "answer": "second"}}

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", twice) as writer,
    ):
        answer = await (await worker.start_run(question)).result()
        await eventually(lambda: all_replies_handled(worker))
    assert answer.answer.startswith("The harbour master")
    [row] = await worker.rows("acme", "SELECT count(*) AS n FROM flotilla.interactions")
    assert row["n"] == 1


async def test_a_reply_to_a_run_that_is_over_is_acknowledged(worker: RunningWorker, question: RAGRequest) -> None:
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write) as writer,
    ):
        await (await worker.start_run(question)).result()
        await writer.reply(writer.seen[0], **await agents.write(writer.seen[0]))
        await eventually(lambda: all_replies_handled(worker))
    assert await dead_letters(worker) == []


async def test_a_cancelled_run_stops_its_agent_and_is_closed(worker: RunningWorker, question: RAGRequest) -> None:
    asked = asyncio.Event()

    async def until_cancelled(task: Task) -> dict[str, Any]:
        asked.set()
        await eventually(lambda: worker.redis.exists(cancelled_key(task["task_id"])))
        return {"status": "cancelled"}

    async with foreign_agent(worker.redis, "research", until_cancelled):
        handle = await worker.start_run(question)
        await asked.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    row = await worker.run_row(question)
    assert (row["status"], row["error"]) == ("cancelled", None)
    last = (await worker.events("acme", question.session_id))[-1]
    assert last.data["details"] == {"run_id": question.run_id, "status": "cancelled"}


async def test_progress_tells_the_agent_of_a_cancellation(worker: RunningWorker, question: RAGRequest) -> None:
    """Progress becomes a heartbeat, and a heartbeat's answer says that the activity was cancelled."""

    async def report(task: Task) -> dict[str, Any]:
        handle = worker.client.get_workflow_handle(run_workflow_id(question.run_id))
        await handle.cancel()
        await eventually(lambda: worker.redis.exists(cancelled_key(task["task_id"])))
        await worker.redis.delete(cancelled_key(task["task_id"]))
        await agent.reply(task, status="progress", progress="half", final=True)
        await eventually(lambda: worker.redis.exists(cancelled_key(task["task_id"])))
        return {"status": "cancelled"}

    async with foreign_agent(worker.redis, "research", report) as agent:
        with pytest.raises(WorkflowFailureError):
            await (await worker.start_run(question)).result()
    assert (await worker.run_row(question))["status"] == "cancelled"


async def test_a_large_result_stays_out_of_the_history(worker: RunningWorker, question: RAGRequest) -> None:
    needle = "unmistakable" * 3_000

    async def much(task: Task) -> dict[str, Any]:
        answer = await agents.write(task)
        return {**answer, "result": {**answer["result"], "answer": needle}}

    async def also_much(task: Task) -> dict[str, Any]:
        answer = await agents.research(task)
        return {**answer, "result": {**answer["result"], "query": needle}}

    async with (
        foreign_agent(worker.redis, "research", also_much),
        foreign_agent(worker.redis, "write", much),
    ):
        answer = await (await worker.start_run(question)).result()
    assert answer.answer == needle
    [row] = await worker.rows("acme", "SELECT result FROM flotilla.agent_tasks WHERE task_id LIKE '%.research'")
    assert needle in row["result"]
    history = await worker.client.get_workflow_handle(run_workflow_id(question.run_id)).fetch_history()
    decided = [event for event in history.events if event.HasField("activity_task_completed_event_attributes")]
    sizes = [event.ByteSize() for event in decided[:2]]
    assert max(sizes) < 2_000, sizes


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "done"},
        {"status": "failed"},
        {"status": "finished", "result": {}},
        {"status": "done", "result": {}, "session_id": "another"},
        {"status": "done", "result": {}, "events": [{"kind": "rumour", "data": {}}]},
        {"status": "done", "result": ["no object"]},
    ],
)
async def test_a_reply_that_no_workflow_can_use_goes_to_the_dead_letters(
    worker: RunningWorker, question: RAGRequest, wrong: dict[str, Any]
) -> None:
    async def misbehave(_task: Task) -> dict[str, Any]:
        return wrong

    async with foreign_agent(worker.redis, "research", misbehave):
        handle = await worker.start_run(question)
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "DeadLetter"
    [letter] = await dead_letters(worker)
    assert letter["reason"] == "refused"
    assert (await worker.run_row(question))["status"] == "error"


async def test_a_reply_that_names_no_tenant_belongs_to_the_operators_tenant(
    database: Database, pool: Pool, redis_url: str, temporal_address: str, unique: Callable[[str], str]
) -> None:
    reply = AgentEvent(type=TASK_REPLIED, source="/agents/research", subject="s", data={"status": "finished"})
    async with connect_redis(redis_url) as redis:
        await redis.xadd(REPLIES_STREAM, {EVENT_FIELD: encode_event(reply)})
    async with running_worker(
        dsn=database.dsn(),
        pool=pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=unique("queue"),
        operator_tenant="operators",
    ) as worker:
        query = "SELECT reason FROM flotilla.dead_letters"
        [letter] = await eventually(lambda: worker.rows("operators", query), timeout_s=60)
    assert letter["reason"] == "refused"


async def test_what_a_foreign_agent_reports_becomes_session_events(worker: RunningWorker, question: RAGRequest) -> None:
    called = {"tool": "search", "call_id": "c1", "args": {"q": "mooring"}}

    async def with_events(task: Task) -> dict[str, Any]:
        return {**await agents.research(task), "events": [{"kind": "tool_call", "data": called}]}

    async with (
        foreign_agent(worker.redis, "research", with_events),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        await (await worker.start_run(question)).result()
    events = await worker.events("acme", question.session_id)
    [tool_call] = [event for event in events if event.type == "flotilla.session.tool_call.v1"]
    assert tool_call.data["tool"] == "search"
    assert (tool_call.source, tool_call.taskid) == ("/agents/research", f"{question.run_id}.research")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
