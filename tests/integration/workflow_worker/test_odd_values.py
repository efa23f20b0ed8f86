"""Whatever a foreign agent puts into its reply ends the run at once, one way or the other."""

import json
from contextlib import suppress
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from flotilla.contracts.requests import RAGRequest
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.worker import RunningWorker

ODD = "a\x00b\ud800c"
KEPT = "a\\u0000b\\ud800c"
ENDS = "SELECT payload FROM flotilla.agent_actions WHERE task_id = $1 AND action_type = 'task'"


async def answered(worker: RunningWorker, question: RAGRequest, **odd: Any) -> Any:
    """The run's row, after its writer answered with the fields of `odd`."""

    async def write(task: Task) -> dict[str, Any]:
        reply = await agents.write(task)
        result = {**reply["result"], **odd.get("result", {})}
        return {**reply, **odd, "result": None if odd.get("status") == "failed" else result}

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", write),
    ):
        handle = await worker.start_run(question)
        with suppress(WorkflowFailureError):
            await handle.result()
    return await worker.run_row(question)


async def test_a_result_is_kept_with_its_escapes(worker: RunningWorker, question: RAGRequest) -> None:
    run = await answered(worker, question, result={"answer": ODD, "model": ODD})
    assert (run["status"], json.loads(run["result"])["answer"]) == ("success", KEPT)
    ends = [json.loads(row["payload"]) for row in await worker.rows("acme", ENDS, f"{question.run_id}.write")]
    assert ends == [{"status": "done", "escaped": ["/answer", "/model"]}]


async def test_the_text_of_a_failure_reaches_the_run(worker: RunningWorker, question: RAGRequest) -> None:
    failure = {"type": ODD, "message": ODD, "retryable": False}
    run = await answered(worker, question, status="failed", failure=failure)
    assert (run["status"], json.loads(run["error"])["message"]) == ("error", KEPT)


async def test_events_are_in_the_log_with_their_escapes(worker: RunningWorker, question: RAGRequest) -> None:
    seen = {"kind": "state_change", "data": {"change": "seen", "details": {ODD: [ODD, float("nan")]}}}
    run = await answered(worker, question, events=[seen])
    assert run["status"] == "success"
    changes = [event.data for event in await worker.events("acme", question.session_id)]
    places = [f"/details/{KEPT}", f"/details/{KEPT}/0", f"/details/{KEPT}/1"]
    shown = {"details": {KEPT: [KEPT, "NaN"]}, "escaped": places}
    assert shown in [{name: change.get(name) for name in shown} for change in changes]


@pytest.mark.parametrize("number", [float("nan"), float("-inf"), 10**400])
async def test_a_number_that_is_none_ends_the_run_with_its_reason(
    worker: RunningWorker, question: RAGRequest, number: float
) -> None:
    run = await answered(worker, question, result={"confidence": number})
    assert run["status"] == "error"
    assert "confidence" in json.loads(run["error"])["message"]
