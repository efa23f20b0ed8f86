"""During an upgrade: tasks and replies of the version before tickets, as the database knows them."""

import json
from collections.abc import Callable
from typing import Any

from temporalio.client import WorkflowHandle

from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.names import PIPELINE_WORKFLOW, REPLIES_STREAM, reply_stream, task_stream, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.workflows.calls.delegation import TaskOutcome
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', $1, 'alice') RETURNING 1"
FORMER_TASK = """
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, status, attempt)
VALUES ('acme', $1, 'one', $1, 'queued', 1) RETURNING 1
"""
ANSWERED = """
UPDATE flotilla.agent_tasks SET status = 'done', result = '{"text": "stored"}', finished_at = now()
WHERE task_id = $1 RETURNING 1
"""
STATUS = "SELECT status FROM flotilla.agent_tasks WHERE task_id = $1"


async def start(worker: RunningWorker, task_id: str) -> WorkflowHandle[Any, TaskOutcome]:
    request = PipelineRequest(
        steps=["one"], input={}, user_id="alice", task_id=task_id, tenant_id="acme", session_id=task_id
    )
    return await worker.client.start_workflow(
        PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=worker.task_queue, result_type=TaskOutcome
    )


async def reply(worker: RunningWorker, stream: str, task_id: str, **fields: Any) -> None:
    """A reply as an agent of the former version sends it."""
    data = {"task_id": task_id, "agent": "one", "tenant_id": "acme", "session_id": task_id, "attempt": 1, **fields}
    event = {
        "specversion": "1.0",
        "id": new_id(),
        "type": "flotilla.task.replied.v1",
        "source": "/agents/one",
        "subject": task_id,
        "time": utc_now().isoformat(),
        "data": data,
    }
    await worker.redis.xadd(stream, {"event": json.dumps(event)})


async def test_a_foreign_agents_reply_to_a_former_task_is_stored_and_found(
    worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    await worker.rows("acme", ADD_SESSION, task_id)
    await worker.rows("acme", FORMER_TASK, task_id)
    await reply(worker, REPLIES_STREAM, task_id, status="done", result={"text": "late"})

    async def stored() -> bool:
        [row] = await worker.rows("acme", STATUS, task_id)
        return bool(row["status"] == "done")

    await eventually(stored)
    assert (await (await start(worker, task_id)).result()).result == {"text": "late"}
    assert not await worker.redis.exists(task_stream("one"))


async def test_a_former_task_without_an_answer_is_published_again_with_a_ticket(
    worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    await worker.rows("acme", ADD_SESSION, task_id)
    await worker.rows("acme", FORMER_TASK, task_id)
    handle = await start(worker, task_id)
    await eventually(lambda: worker.redis.exists(task_stream("one")))
    entries: Any = await worker.redis.xrange(task_stream("one"))
    [(_, fields)] = entries
    assert b"ticket" in fields
    await reply(worker, reply_stream("one"), task_id, status="done", result={"text": "new"})
    assert (await handle.result()).result == {"text": "new"}


async def test_a_reply_on_the_former_stream_is_a_hint_to_look_and_no_answer(
    worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    await worker.rows("acme", ADD_SESSION, task_id)
    handle = await start(worker, task_id)
    await eventually(lambda: worker.redis.exists(task_stream("one")))
    await reply(worker, REPLIES_STREAM, task_id, status="done", result={"text": "forged"})
    letters = "SELECT error FROM flotilla.dead_letters"
    [letter] = await eventually(lambda: worker.rows("acme", letters))
    assert "replies on flotilla.replies.one" in letter["error"]
    assert (await handle.describe()).close_time is None

    await worker.rows("acme", ANSWERED, task_id)  # as an agent of the former version does before it replies
    await reply(worker, REPLIES_STREAM, task_id, status="done", result={"text": "forged"}, persisted=True)
    assert (await handle.result()).result == {"text": "stored"}
