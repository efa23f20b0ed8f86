"""Whatever a foreign agent puts into its reply ends the run at once, one way or the other."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from flotilla.contracts.names import reply_stream
from flotilla.contracts.requests import RAGRequest
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.waiting import eventually
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


def without_envelope(text: str) -> str:
    return json.dumps({"answer": "for you", **{name: json.loads(text)["data"][name] for name in NAMES}})


NAMES = ("task_id", "tenant_id", "session_id", "attempt", "agent")
UNREADABLE: list[Callable[[str], str | bytes]] = [
    lambda _: "",
    lambda _: "Traceback (most recent call last):",
    lambda _: '["a", "list"]',
    lambda _: "null",
    lambda _: "{}",
    lambda _: bytes(range(256)),
    lambda _: "{" * 100_000,
    lambda text: text[: len(text) // 2],
    lambda text: text.replace('"specversion": "1.0"', '"specversion": "9.9"'),
    lambda text: text + " " * 10_000_000,
    lambda _: "no JSON" * 1_500_000,
    without_envelope,
]


async def test_a_reply_that_nobody_can_read_ends_the_run_with_the_reason(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async with foreign_agent(worker.redis, "research", agents.research) as agent:
        for number, spelling in enumerate(UNREADABLE):
            agent.spelling = spelling
            await ends_unread(worker, replace(question, run_id=f"{question.run_id}-{number}"), "refused: ")
        agent.spelling = str
        kept = await worker.rows("default", "SELECT reason FROM flotilla.dead_letters")
        named = await worker.rows("acme", "SELECT reason FROM flotilla.dead_letters")
    assert sorted(row["reason"] for row in [*kept, *named]) == ["oversize"] * 2 + ["undecodable"] * 10


async def test_a_reply_without_its_field_ends_the_run_with_the_reason(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async def nothing(_task: Task) -> None:
        await worker.redis.xadd(reply_stream("research"), {"answer": "for you"})

    async with foreign_agent(worker.redis, "research", nothing):
        await ends_unread(worker, question, "has no field 'event'")


async def ends_unread(worker: RunningWorker, question: RAGRequest, why: str) -> None:
    handle = await worker.start_run(question)
    async with asyncio.timeout(15):
        with suppress(WorkflowFailureError):
            await handle.result()
    run = await worker.run_row(question)
    assert run["status"] == "error"
    assert why in json.loads(run["error"])["message"]


async def test_an_unreadable_reply_is_that_of_the_task_which_is_not_answered(
    worker: RunningWorker, question: RAGRequest
) -> None:
    both, asked = asyncio.Event(), list[Task]()

    async def research(task: Task) -> dict[str, Any] | None:
        asked.append(task)
        if len(asked) == 1:
            return None
        await worker.redis.xadd(reply_stream("research"), {"event": "no JSON"})
        both.set()
        return None

    other = replace(question, run_id=f"{question.run_id}-2", session_id=f"{question.session_id}-2")
    async with (
        foreign_agent(worker.redis, "research", research) as agent,
        foreign_agent(worker.redis, "write", agents.write),
    ):
        answered, unanswered = await worker.start_run(question), await worker.start_run(other)
        await asyncio.wait_for(both.wait(), 15)
        first, second = sorted(asked, key=lambda task: str(task["run_id"]))
        await agent.reply(first, **(await agents.research(first)))
        async with asyncio.timeout(20):
            with suppress(WorkflowFailureError):
                await asyncio.gather(answered.result(), unanswered.result(), return_exceptions=True)
    assert second["run_id"] == other.run_id
    assert [(await worker.run_row(run))["status"] for run in (question, other)] == ["success", "error"]


async def test_an_agent_ends_no_task_of_another_with_what_nobody_can_read(
    worker: RunningWorker, question: RAGRequest
) -> None:
    async def write(task: Task) -> dict[str, Any]:
        for text in ("no JSON", json.dumps({name: task[name] for name in NAMES})):
            await worker.redis.xadd(reply_stream("research"), {"event": text})
        await eventually(lambda: two_letters(worker))
        return await agents.write(task)

    async with (
        foreign_agent(worker.redis, "research", agents.research),
        foreign_agent(worker.redis, "write", write),
    ):
        handle = await worker.start_run(question)
        await handle.result()
    assert (await worker.run_row(question))["status"] == "success"


async def two_letters(worker: RunningWorker) -> bool:
    found = [await worker.rows(tenant, "SELECT FROM flotilla.dead_letters") for tenant in ("default", "acme")]
    return sum(map(len, found)) == 2
