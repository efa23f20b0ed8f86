"""A hostile agent opens tasks, and answers what it was not asked.

Each test is an attack and its variations: the agent is refused, or gets no answer, and nothing of others changes.
"""

from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from flotilla.bus import Redis
from flotilla.contracts.names import (
    REDRIVES_STREAM,
    REPLIES_STREAM,
    reply_stream,
    task_stream,
)
from flotilla.postgres import tenant_transaction
from tests.hostile.bus.ground import OTHER, TENANT, answering, delegated, handled, letters, refusals, seen, untouched
from tests.hostile.bus.insider import AGENT, VICTIM, Insider
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

STORE_ANSWERS = "UPDATE flotilla.agent_tasks SET status = 'done', result = '{\"stored\": true}', finished_at = now()"
DEAD_LETTERS = "SELECT 1 FROM flotilla.dead_letters HAVING count(*) >= 3"

# 1: a task for another agent, in another tenant's name ---------------------------------------------------------------

OPENED = [
    ("XADD", task_stream(VICTIM), "*", "event", '{"tenant_id": "victim"}'),
    ("XADD", task_stream(VICTIM), "*", "event", "{}", "ticket", "A.B"),
    ("XADD", task_stream(VICTIM), "NOMKSTREAM", "*", "event", "{}"),
    ("XADD", task_stream(AGENT), "*", "event", "{}"),
    ("XADD", task_stream("nobody"), "*", "event", "{}"),
    ("XADD", REDRIVES_STREAM, "*", "event", "{}"),
]


async def test_an_agent_opens_no_task(mallory: Insider, admin: Redis) -> None:
    assert [await mallory.attempt(*command) for command in OPENED] == ["refused"] * len(OPENED)
    assert [await admin.xlen(task_stream(agent)) for agent in (AGENT, VICTIM)] == [0, 0]


# 2: the step of another workflow -------------------------------------------------------------------------------------


async def test_an_agent_completes_no_step_of_another_agent(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    waiting = await delegated(worker, admin, task_id, [VICTIM])
    own = {"tenant_id": TENANT, "session_id": task_id, "attempt": 1, "task_id": task_id}
    done = {"status": "done", "result": {"stolen": True}}
    before = refusals("another_agent")
    variations: list[dict[str, Any]] = [
        {**own, **done, "agent": AGENT},
        {**own, **done, "agent": VICTIM},
        {**own, **done, "agent": AGENT, "persisted": True, "reply_to": waiting.task["reply_to"]},
        {**own, "status": "failed", "agent": VICTIM, "failure": {"type": "X", "message": "x", "retryable": False}},
        {**own, "status": "cancelled", "agent": AGENT},
        {**own, "status": "progress", "progress": "nothing", "agent": AGENT},
    ]
    for variation in variations:
        await mallory.reply(**variation)
    await eventually(lambda: handled(admin))
    assert refusals("another_agent") - before == len(variations)
    found = await letters(worker)
    assert {(letter["stream"], letter["reason"]) for letter in found} == {(reply_stream(AGENT), "refused")}
    assert f"the task is not that of agent {AGENT}" in found[0]["error"]
    assert await waiting.is_waiting()
    assert await untouched(worker, task_id)
    async with answering(admin, VICTIM):
        assert (await waiting.handle.result()).result == {"honest": True}


async def test_a_reply_address_is_not_believed(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    """Its own task's answer, addressed to the workflow of somebody else."""
    victim = await delegated(worker, admin, unique("victim"), [VICTIM])
    own = await delegated(worker, admin, unique("own"), [AGENT])
    await mallory.reply(
        task_id=own.task["task_id"], agent=AGENT, tenant_id=TENANT, session_id=own.task["session_id"], attempt=1,
        status="done", result={"mine": True}, reply_to=victim.task["reply_to"],
    )  # fmt: skip
    assert (await own.handle.result()).result == {"mine": True}
    assert await victim.is_waiting()
    await victim.handle.terminate()


async def test_stored_is_looked_up_and_not_believed(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    own = await delegated(worker, admin, unique("own"), [AGENT])
    before = refusals("not_stored")
    await mallory.reply(
        task_id=own.task["task_id"], agent=AGENT, tenant_id=TENANT, session_id=own.task["session_id"], attempt=1,
        status="done", result={"invented": True}, persisted=True,
    )  # fmt: skip
    with pytest.raises(WorkflowFailureError):
        await own.handle.result()
    assert refusals("not_stored") == before + 1
    assert await worker.rows(TENANT, "SELECT 1 FROM flotilla.agent_tasks WHERE result IS NOT NULL") == []


async def test_an_answer_that_is_stored_is_not_delivered_by_another_agent_or_into_another_session(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    """The agent of the task has committed its answer, and has not replied yet."""
    task_id = unique("task")
    waiting = await delegated(worker, admin, task_id, [VICTIM])
    own = await delegated(worker, admin, unique("own"), [AGENT])
    async with tenant_transaction(worker.pool, TENANT) as connection:
        await connection.execute(STORE_ANSWERS)
    fields = {"tenant_id": TENANT, "attempt": 1, "status": "done", "persisted": True}
    for agent in (AGENT, VICTIM):
        await mallory.reply(**fields, task_id=task_id, session_id=task_id, agent=agent)
    await mallory.reply(**fields, task_id=own.task["task_id"], session_id=task_id, agent=AGENT)
    await eventually(lambda: seen(admin))
    assert await eventually(lambda: worker.rows(TENANT, DEAD_LETTERS))
    open_ones = await worker.rows(TENANT, "SELECT state FROM flotilla.delegations WHERE task_id = $1", task_id)
    assert [row["state"] for row in open_ones] == ["open"]
    assert await waiting.is_waiting()
    with pytest.raises(WorkflowFailureError):
        await own.handle.result()
    await waiting.handle.terminate()


async def test_an_agent_answers_for_no_other_tenant_session_or_try(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    waiting = await delegated(worker, admin, task_id, [AGENT])
    fields = {"agent": AGENT, "session_id": task_id, "attempt": 1, "status": "done", "result": {}}
    for wrong in (
        {"task_id": task_id, "tenant_id": OTHER},
        {"task_id": task_id, "tenant_id": TENANT, "attempt": 9},
        {"task_id": "nothing", "tenant_id": TENANT},
        {"task_id": task_id, "tenant_id": "\x00"},
        {"task_id": f"{task_id}\x00", "tenant_id": TENANT},
    ):
        await mallory.reply(**{**fields, **wrong})
    await eventually(lambda: seen(admin))
    assert await waiting.is_waiting()
    assert await untouched(worker, task_id)
    await waiting.handle.terminate()


async def test_an_agent_answers_on_no_stream_of_others(mallory: Insider) -> None:
    for stream in (REPLIES_STREAM, reply_stream(VICTIM), reply_stream("nobody"), f"{reply_stream(AGENT)}.x"):
        assert await mallory.attempt("XADD", stream, "*", "event", "{}") == "refused"


# 7: history that nobody made -----------------------------------------------------------------------------------------


async def test_an_invented_hop_writes_no_history(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    waiting = await delegated(worker, admin, task_id, [AGENT, VICTIM])
    event = {"kind": "message", "data": {"role": "assistant", "content": "written by mallory"}}
    fields = {"tenant_id": TENANT, "session_id": task_id, "attempt": 1, "status": "done", "result": {}}
    before = refusals("unknown_hop")
    for hop, agent in (("~9", VICTIM), ("~2", AGENT), ("~-1", AGENT), ("~1~1", AGENT), ("~x", AGENT)):
        await mallory.reply(**{**fields, "task_id": f"{task_id}{hop}", "agent": agent, "events": [event]})
    await eventually(lambda: handled(admin))
    assert refusals("unknown_hop") - before == 5
    assert await untouched(worker, task_id)
    assert await worker.rows(TENANT, "SELECT 1 FROM flotilla.agent_tasks WHERE task_id LIKE '%~%'") == []
    await waiting.handle.terminate()


async def test_a_hop_that_is_not_its_own_is_not_answered_by_it(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    task_id = unique("task")
    waiting = await delegated(worker, admin, task_id, [AGENT, VICTIM])
    fields = {"tenant_id": TENANT, "session_id": task_id, "attempt": 1, "status": "done", "agent": AGENT}
    await mallory.reply(**{**fields, "task_id": task_id, "result": {"first": True}})
    await eventually(lambda: admin.xlen(task_stream(VICTIM)))
    before = refusals("another_agent")
    await mallory.reply(**{**fields, "task_id": f"{task_id}~1", "result": {"second": True}})
    await eventually(lambda: handled(admin))
    assert refusals("another_agent") == before + 1
    async with answering(admin, VICTIM):
        assert (await waiting.handle.result()).result == {"honest": True}


# 12: actions that are not the agent's --------------------------------------------------------------------------------

ASKED: list[dict[str, Any]] = [
    {"action": "echo"},
    {"action": "http_request", "args": {"url": "http://127.0.0.1/"}},
    {"action": f"{VICTIM}.pay"},
    {"action": f"{AGENT}."},
    {"action": f"x{AGENT}.pay"},
    {"approval_id": "of-another-task.pay.1"},
    {"approval_id": "{task}"},
    {"approval_id": "{task}.pay/../x"},
]


async def test_an_agent_asks_for_no_action_but_its_own_tools(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    before = refusals("approval")
    for asked in ASKED:
        task_id = unique("task")
        waiting = await delegated(worker, admin, task_id, [AGENT])
        approval = {
            "action": f"{AGENT}.pay", "approval_id": f"{task_id}.pay.1", "description": "pay", "risk_level": "low",
            "args": {"text": "x"}, **asked,
        }  # fmt: skip
        approval["approval_id"] = approval["approval_id"].replace("{task}", task_id)
        failure = {"type": "ApprovalRequired", "message": "waits", "retryable": False, "approvals": [approval]}
        await mallory.reply(
            task_id=task_id, agent=AGENT, tenant_id=TENANT, session_id=task_id, attempt=1, status="failed",
            failure=failure,
        )  # fmt: skip
        with pytest.raises(WorkflowFailureError):
            await waiting.handle.result()
    assert refusals("approval") - before == len(ASKED)
    assert await worker.rows(TENANT, "SELECT 1 FROM flotilla.actions") == []
    assert await worker.rows(TENANT, "SELECT 1 FROM flotilla.action_executions") == []
