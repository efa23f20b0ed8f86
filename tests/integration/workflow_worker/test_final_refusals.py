"""What no repetition changes ends at once, and its reason reaches anyone who asked."""

import asyncio
import json
from typing import Any

import pytest
from temporalio.client import AsyncActivityHandle, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.approvals import MAX_ARGS_BYTES
from flotilla.contracts.names import run_workflow_id
from flotilla.contracts.requests import RAGRequest
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

TOO_LARGE = "grpc: received message larger than max (5000000 vs. 4194304)"
ADD_RUN = """
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request, created_at)
VALUES ('acme', $1, $2, 'alice', $3, 'q', 'pending', $4::jsonb, now() - interval '1 minute') RETURNING 1
"""
ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ('acme', $1, 'alice') RETURNING 1"
REGISTER = """
INSERT INTO flotilla_ops.agents (name, instance, version, stream, consumer_group, concurrency, input_schema,
    output_schema, timeout_s) VALUES ('research', 'i', '1', 's', 'g', 1, '{}', '{}', $1)
"""


async def ended(worker: RunningWorker, question: RAGRequest, research: Any = agents.research) -> Any:
    """The run's row after its workflow has ended."""
    async with (
        foreign_agent(worker.redis, "research", research),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        handle = await worker.start_run(question)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    return await worker.run_row(question)


def why(row: Any) -> str:
    assert row["status"] == "error"
    message: str = json.loads(row["error"])["message"]
    return message


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (RPCStatusCode.INVALID_ARGUMENT, "Complete result exceeds size limit."),
        (RPCStatusCode.RESOURCE_EXHAUSTED, TOO_LARGE),
    ],
)
@pytest.mark.timeout(60)
async def test_an_answer_that_temporal_refuses_ends_the_run_with_its_words(
    worker: RunningWorker, question: RAGRequest, monkeypatch: pytest.MonkeyPatch, status: RPCStatusCode, message: str
) -> None:
    async def refuse(_self: AsyncActivityHandle, _result: Any) -> None:
        raise RPCError(message, status, b"")

    monkeypatch.setattr(AsyncActivityHandle, "complete", refuse)
    assert message in why(await ended(worker, question))


@pytest.mark.timeout(60)
async def test_an_answer_that_temporal_does_not_take_now_is_given_again(
    worker: RunningWorker, question: RAGRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, refused = AsyncActivityHandle.complete, list[str]()

    async def refuse_once(self: AsyncActivityHandle, result: Any) -> None:
        if not refused:
            refused.append("once")
            raise RPCError("too many requests", RPCStatusCode.RESOURCE_EXHAUSTED, b"")
        await complete(self, result)

    monkeypatch.setattr(AsyncActivityHandle, "complete", refuse_once)
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        await (await worker.start_run(question)).result()
    assert refused == ["once"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("depth", [101, 500, 5_000])
async def test_a_reply_that_is_nested_too_deep_ends_the_run_with_that_reason(
    worker: RunningWorker, question: RAGRequest, depth: int
) -> None:
    async def deep(task: Task) -> dict[str, Any]:
        reply = await agents.research(task)
        return {**reply, "result": {**reply["result"], "more": "DEEP"}}

    async with foreign_agent(worker.redis, "research", deep) as agent:
        agent.spelling = lambda text: text.replace('"DEEP"', "[" * depth + "]" * depth)
        handle = await worker.start_run(question)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    assert "nested deeper than 100 levels" in why(await worker.run_row(question))


@pytest.mark.timeout(60)
async def test_approvals_that_are_too_large_to_ask_about_end_the_run_with_that_reason(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async def ask(task: Task) -> dict[str, Any]:
        call = {
            "approval_id": f"{task['task_id']}.pay",
            "action": "research.pay",
            "description": "Pay",
            "args": {"text": "é" * (MAX_ARGS_BYTES // 2)},
            "risk_level": "high",
        }
        failure = {"type": "ApprovalRequired", "message": "waits", "retryable": False, "approvals": [call]}
        return {"status": "failed", "failure": failure}

    assert f"{MAX_ARGS_BYTES} are allowed" in why(await ended(worker, question, ask))


@pytest.mark.parametrize("limit_s", [1e300, float("nan"), float("inf"), -1.0])
async def test_a_limit_beyond_reason_does_not_stop_the_run(
    worker: RunningWorker, question: RAGRequest, limit_s: float
) -> None:
    await worker.pool.execute(REGISTER, limit_s)
    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", agents.write),
    ):
        async with asyncio.timeout(30):
            await (await worker.start_run(question)).result()


@pytest.mark.timeout(60)
async def test_a_row_whose_workflow_cannot_be_started_is_closed_and_holds_up_no_other(
    worker: RunningWorker, question: RAGRequest
) -> None:
    asked = {"query": "q", "user_id": "alice", "session_id": "s", "tenant_id": "acme"}
    requests: dict[str, Any] = {
        "too-large": {**asked, "query": "x" * 2_200_000},
        "no-request": {"nothing": True},
        "good": {**asked, "session_id": "s-good", "run_id": f"{question.run_id}-good"},
    }
    for name, request in requests.items():
        run_id = f"{question.run_id}-{name}"
        await worker.rows("acme", ADD_SESSION, f"s-{name}")
        await worker.rows("acme", ADD_RUN, run_id, f"s-{name}", run_workflow_id(run_id), json.dumps(request))

    async def none_left() -> bool:
        return not await worker.rows("acme", "SELECT 1 FROM flotilla.runs WHERE status = 'pending'")

    await eventually(none_left, timeout_s=40)
    rows = await worker.rows("acme", "SELECT run_id, status, error ->> 'message' AS error FROM flotilla.runs")
    ends = {row["run_id"].removeprefix(f"{question.run_id}-"): (row["status"], row["error"]) for row in rows}
    assert ends == {
        "too-large": ("error", "its workflow can't be started: Blob data size exceeds limit."),
        "no-request": (
            "error",
            "its workflow can't be started: not a RAGRequest: Object missing required field `query`",
        ),
        "good": ("running", None),
    }
