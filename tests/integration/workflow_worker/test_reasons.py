"""Why a pipeline has no result reaches its row, and so the caller; what no retry changes ends at once."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from flotilla.contracts.envelope import to_json
from flotilla.contracts.names import PIPELINE_WORKFLOW, task_workflow_id
from flotilla.contracts.requests import PipelineRequest
from flotilla.contracts.tasks import MAX_TASK_INPUT_BYTES
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.worker import RunningWorker

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', $1, 'alice') RETURNING 1"
ADD = """
INSERT INTO flotilla.pipelines
    (tenant_id, task_id, session_id, user_id, workflow_id, steps, status, request, result_task_id)
VALUES ('acme', $1, $1, 'alice', $2, $3, 'pending', $4::jsonb, $1) RETURNING 1
"""
ROW = "SELECT status, error FROM flotilla.pipelines WHERE task_id = $1"


class Pipelines:
    """Submits pipelines as the gateway does, less its checks."""

    def __init__(self, worker: RunningWorker, unique: Callable[[str], str]) -> None:
        self._worker = worker
        self._unique = unique

    async def start(self, data: dict[str, Any], *steps: str) -> tuple[str, WorkflowHandle[Any, Any]]:
        task_id = self._unique("task")
        request = PipelineRequest(
            steps=list(steps), input=data, user_id="alice", task_id=task_id, tenant_id="acme", session_id=task_id
        )
        await self._worker.rows("acme", ADD_SESSION, task_id)
        workflow_id = task_workflow_id(task_id)
        # The row's copy of the request is for restarts only.
        await self._worker.rows("acme", ADD, task_id, workflow_id, list(steps), "{}")
        queue = self._worker.task_queue
        handle = await self._worker.client.start_workflow(PIPELINE_WORKFLOW, request, id=workflow_id, task_queue=queue)
        return task_id, handle

    async def error_of(self, data: dict[str, Any], *steps: str) -> dict[str, Any]:
        """The error in the row of a pipeline that fails."""
        task_id, handle = await self.start(data, *steps)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        (row,) = await self._worker.rows("acme", ROW, task_id)
        assert row["status"] == "error"
        error: dict[str, Any] = json.loads(row["error"])
        last: Any = (await self._worker.events("acme", task_id))[-1].data
        assert last["details"]["error"] == {"type": error["type"], "message": error["message"][:4000]}
        return error


@pytest.fixture
def pipelines(worker: RunningWorker, unique: Callable[[str], str]) -> Pipelines:
    return Pipelines(worker, unique)


@pytest.mark.timeout(60)  # it was 30 minutes
async def test_input_that_no_entry_can_hold_ends_the_pipeline_at_once_with_that_reason(pipelines: Pipelines) -> None:
    error = await pipelines.error_of({"text": "x" * 1_100_000}, "shout")
    assert error["type"] == "Oversize"
    assert "1000000 are allowed" in error["message"]


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
async def test_largest_input_that_the_api_takes_reaches_the_agent(
    worker: RunningWorker, pipelines: Pipelines, letter: str
) -> None:
    room = (MAX_TASK_INPUT_BYTES - len(to_json({"text": ""}))) // len(letter.encode())

    async def measure(task: Task) -> dict[str, Any]:
        return {"status": "done", "result": {"characters": len(task["input"]["text"])}}

    async with foreign_agent(worker.redis, "measure", measure):
        _, handle = await pipelines.start({"text": letter * room}, "measure")
        assert (await handle.result())["result"] == {"characters": room}


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"status": "failed", "failure": {"type": "NoPaper", "message": "tray 2", "retryable": False}}, "tray 2"),
        ({"status": "failed"}, "its status is failed, and it has no failure"),
        ({"status": "done"}, "its status is done, and it has no result"),
        ({"status": "done", "result": {}, "events": [{"kind": "rumour", "data": {}}]}, "rumour"),
        ({"status": "done", "result": {}, "session_id": "another"}, "session or agent is not the task's"),
        ({"status": "failed", "failure": {"type": "T", "message": "m" * 50_000, "retryable": False}}, "m" * 4000),
    ],
    ids=["failure", "failed without one", "done without a result", "event of no kind", "another session", "long"],
)
async def test_refused_or_failed_reply_tells_its_reason(
    worker: RunningWorker, pipelines: Pipelines, reply: dict[str, Any], told: str
) -> None:
    async def answer(_task: Task) -> dict[str, Any]:
        return reply

    async with foreign_agent(worker.redis, "shout", answer):
        error = await pipelines.error_of({"text": "hello"}, "shout")
    assert told in error["message"]
    assert "its workflow ended" not in error["message"]
