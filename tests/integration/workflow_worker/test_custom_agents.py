"""Questions whose last agent writes no answers: what it returns is the run's output."""

from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from flotilla.contracts.requests import RAGRequest
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent, route_to_a_version
from tests.support.postgres import Database
from tests.support.worker import RunningWorker


async def translate(task: Task) -> dict[str, Any]:
    return {"status": "done", "result": {"text": f"«{task['input']['query']}»"}}


async def test_a_run_that_ends_with_a_custom_agent_succeeds_with_its_result(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async with foreign_agent(worker.redis, "translate", translate):
        assert await (await worker.start_run(replace(question, steps=["translate"]))).result() is None
    row = await worker.run_row(question)
    assert (row["status"], row["result"], row["output"]) == (
        "success",
        None,
        '{"text": "«Who inspects the mooring lines?»"}',
    )
    last = (await worker.events("acme", question.session_id))[-1]
    assert last.data["details"] == {
        "run_id": question.run_id,
        "status": "success",
        "output": {"text": "«Who inspects the mooring lines?»"},
    }


async def test_the_end_of_a_run_names_the_version_of_an_agent_that_a_route_decided_about(
    worker: RunningWorker, question: RAGRequest, database: Database
) -> None:
    await route_to_a_version(database, "translate", "2")
    async with foreign_agent(worker.redis, "translate", translate, "2"):
        await (await worker.start_run(replace(question, steps=["translate"]))).result()
    last = (await worker.events("acme", question.session_id))[-1]
    assert last.data["details"]["versions"] == {"translate": "2"}  # type: ignore[index, call-overload]


async def test_an_answer_that_the_writer_got_wrong_still_fails(worker: RunningWorker, question: RAGRequest) -> None:
    async def write(_task: Task) -> dict[str, Any]:
        return {"status": "done", "result": {"answer": "The harbour master."}}

    async with foreign_agent(worker.redis, "research", agents.research), foreign_agent(worker.redis, "write", write):
        with pytest.raises(WorkflowFailureError):
            await (await worker.start_run(question)).result()
    assert "WriteResult" in (await worker.run_row(question))["error"]
