"""Routing slips: the bridge forwards them, since it knows what comes next."""

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from flotilla.contracts.names import EVENTS_STREAM, PIPELINE_WORKFLOW, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.workflows.calls.delegation import TaskOutcome
from tests.support.consumers import entries
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', $1, 'alice')"


async def start(worker: RunningWorker, task_id: str, steps: list[str], **data: Any) -> Any:
    await worker.rows("acme", ADD_SESSION, task_id)
    request = PipelineRequest(
        steps=steps, input={"text": "a", **data}, user_id="alice", task_id=task_id, tenant_id="acme", session_id=task_id
    )
    return await worker.client.start_workflow(
        PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=worker.task_queue, result_type=TaskOutcome
    )


async def echo(task: Task) -> dict[str, Any]:
    return {"status": "done", "result": {f"by_{task['agent']}": True}}


async def test_each_agent_gets_the_result_of_the_one_before_and_the_last_one_completes(
    worker: RunningWorker, unique: Any
) -> None:
    task_id = unique("task")
    async with (
        foreign_agent(worker.redis, "one", echo),
        foreign_agent(worker.redis, "two", echo) as two,
        foreign_agent(worker.redis, "three", echo) as three,
    ):
        outcome = await (await start(worker, task_id, ["one", "two", "three"])).result()
    assert outcome.task_id == f"{task_id}~2"
    assert outcome.result == {"by_three": True}
    [hop], [last] = two.seen, three.seen
    assert hop["input"] == {"text": "a", "by_one": True}
    assert last["input"] == {"text": "a", "by_one": True, "by_two": True}
    assert (hop["task_id"], hop["slip"], hop["user_id"]) == (f"{task_id}~1", ["three"], "alice")
    assert (last["task_id"], last["slip"]) == (f"{task_id}~2", [])
    assert hop["secret"] != last["secret"]
    rows = await worker.rows("acme", "SELECT hop, state, event FROM flotilla.delegations ORDER BY hop")
    assert [(row["hop"], row["state"], row["event"]) for row in rows] == [(n, "done", None) for n in range(3)]
    announced = [event["source"] for event in await entries(worker.redis, EVENTS_STREAM)]
    assert announced == ["/agents/one", "/agents/two", "/agents/three"]


async def test_a_hop_that_fails_is_tried_again_without_those_before_it(worker: RunningWorker, unique: Any) -> None:
    async def fail_once(task: Task) -> dict[str, Any]:
        if task["attempt"] == 1:
            return {"status": "failed", "failure": {"type": "Busy", "message": "later", "retryable": True}}
        return await echo(task)

    async with (
        foreign_agent(worker.redis, "one", echo) as one,
        foreign_agent(worker.redis, "two", fail_once) as two,
    ):
        outcome = await (await start(worker, unique("task"), ["one", "two"])).result()
    assert outcome.result == {"by_two": True}
    assert [task["attempt"] for task in one.seen] == [1]
    assert [task["attempt"] for task in two.seen] == [1, 2]


async def test_a_large_result_goes_to_the_next_hop_by_reference(worker: RunningWorker, unique: Any) -> None:
    async def much(_task: Task) -> dict[str, Any]:
        return {"status": "done", "result": {"text": "x" * 20_000}}

    task_id = unique("task")
    async with foreign_agent(worker.redis, "one", much), foreign_agent(worker.redis, "two", echo) as two:
        await (await start(worker, task_id, ["one", "two"])).result()
    [hop] = two.seen
    assert hop["input_from"] == task_id
    assert len(str(hop)) < 3_000


async def test_a_redelivered_reply_forwards_the_slip_once(worker: RunningWorker, unique: Any) -> None:
    async def twice(task: Task) -> dict[str, Any]:
        answer = await echo(task)
        await one.reply(task, **answer)
        return answer

    async with foreign_agent(worker.redis, "one", twice) as one, foreign_agent(worker.redis, "two", echo) as two:
        outcome = await (await start(worker, unique("task"), ["one", "two"])).result()
        await eventually(lambda: _nothing_pending(worker))
    assert outcome.result == {"by_two": True}
    assert {task["task_id"] for task in two.seen} == {outcome.task_id}


async def _nothing_pending(worker: RunningWorker) -> bool:
    [group] = await worker.redis.xinfo_groups("flotilla.replies.one")
    return bool((group["lag"], group["pending"]) == (0, 0))


async def test_a_slip_ends_with_the_failure_of_its_hop(worker: RunningWorker, unique: Any) -> None:
    async def refuse(_task: Task) -> dict[str, Any]:
        return {"status": "failed", "failure": {"type": "ValueError", "message": "no", "retryable": False}}

    async with foreign_agent(worker.redis, "one", echo), foreign_agent(worker.redis, "two", refuse):
        with pytest.raises(WorkflowFailureError) as caught:
            await (await start(worker, unique("task"), ["one", "two"])).result()
    assert "no" in str(caught.value.cause)
