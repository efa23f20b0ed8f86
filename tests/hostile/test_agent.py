"""A hostile agent, with the rights on Redis that `flotilla.bus.acl` gives it and a running worker before it.

Each test is an attack and its variations: the agent is refused, or gets no answer, and nothing of others changes.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from flotilla.bus import Redis, connect_redis, ensure_group
from flotilla.bus.functions import load_functions
from flotilla.bus.housekeeping import Housekeeping
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import (
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    PIPELINE_WORKFLOW,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    agent_group,
    cancelled_key,
    login_key,
    reply_stream,
    run_stream,
    task_stream,
    task_workflow_id,
)
from flotilla.contracts.requests import PipelineRequest
from flotilla.postgres import Pool, tenant_transaction
from flotilla.telemetry.metrics import REPLIES_REFUSED
from flotilla.workflows.calls.delegation import TaskOutcome
from tests.hostile.insider import AGENT, MAX_ID, VICTIM, Insider, insider, reply_event
from tests.support.foreign_agent import ForeignAgent, Task, foreign_agent
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker, running_worker
from workflow_worker.delegates import Delegates

ADD_SESSION = "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'alice')"
TENANT, OTHER = "acme", "victim"


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Redis]:
    """The administrator of a Redis with the streams of both agents."""
    async with connect_redis(redis_url) as redis:
        await load_functions(redis)
        for agent in (AGENT, VICTIM):
            await ensure_group(redis, task_stream(agent), agent_group(agent))
            await ensure_group(redis, reply_stream(agent), "workflow-bridge")
        yield redis


@pytest.fixture
async def mallory(admin: Redis, redis_url: str) -> AsyncIterator[Insider]:
    """The hostile agent."""
    del admin  # which made its user
    async with insider(redis_url) as armed:
        yield armed


@pytest.fixture
async def worker(
    mallory: Insider, database: Database, pool: Pool, redis_url: str, temporal_address: str
) -> AsyncIterator[RunningWorker]:
    """A worker that works with the rights of its own user."""
    del mallory  # before whom it works
    await Delegates(pool).note(AGENT)
    async with running_worker(
        dsn=database.dsn("flotilla_worker"),
        pool=pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=f"queue-{new_id()}",
    ) as running:
        yield running


@dataclass
class Waiting:
    """A workflow that waits for an agent, and the task that the agent was given."""

    handle: WorkflowHandle[Any, TaskOutcome]
    task: Task

    async def is_waiting(self) -> bool:
        return (await self.handle.describe()).close_time is None


async def delegated(worker: RunningWorker, admin: Redis, task_id: str, steps: list[str]) -> Waiting:
    """A workflow that waits for the first of `steps`."""
    async with tenant_transaction(worker.pool, TENANT) as connection:
        await connection.execute(ADD_SESSION, TENANT, task_id)
    request = PipelineRequest(
        steps=steps, input={"q": "?"}, user_id="alice", task_id=task_id, tenant_id=TENANT, session_id=task_id
    )
    handle = await worker.client.start_workflow(
        PIPELINE_WORKFLOW, request, id=task_workflow_id(task_id), task_queue=worker.task_queue, result_type=TaskOutcome
    )

    async def given() -> Task | None:
        entries: Any = await admin.xrange(task_stream(steps[0]))
        tasks: list[Task] = [json.loads(fields[b"event"])["data"] for _, fields in entries]
        return next((task for task in tasks if task["task_id"] == task_id), None)

    return Waiting(handle, await eventually(given, timeout_s=30))


def answering(admin: Redis, agent: str) -> AbstractAsyncContextManager[ForeignAgent]:
    """The honest agent, at work."""

    async def honest(_task: Task) -> dict[str, Any]:
        return {"status": "done", "result": {"honest": True}}

    return foreign_agent(admin, agent, honest)


def refusals(reason: str) -> float:
    """How many replies of the hostile agent were refused for `reason`, as the metric says."""
    return float(REPLIES_REFUSED.labels(AGENT, reason)._value.get())


async def handled(admin: Redis) -> bool:
    """Whether the bridge has seen all that the hostile agent sent."""
    [group] = await admin.xinfo_groups(reply_stream(AGENT))
    return (group["lag"], group["pending"]) == (0, 0)


async def seen(admin: Redis) -> bool:
    """Whether the bridge has read all that the hostile agent sent."""
    [group] = await admin.xinfo_groups(reply_stream(AGENT))
    return bool(group["lag"] == 0)


async def letters(worker: RunningWorker) -> list[asyncpg.Record]:
    return await worker.rows(TENANT, "SELECT stream, reason, error FROM flotilla.dead_letters ORDER BY created_at")


async def untouched(worker: RunningWorker, task_id: str) -> bool:
    """Whether the task still waits for its answer, with nothing in its session."""
    [task] = await worker.rows(TENANT, "SELECT status FROM flotilla.agent_tasks WHERE task_id = $1", task_id)
    events = await worker.events(TENANT, task_id)
    return task["status"] == "queued" and not any(event.source.startswith("/agents/") for event in events)


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


# 6: stopping the bus ------------------------------------------------------------------------------------------------

OTHERS = [
    task_stream(VICTIM), task_stream(AGENT), REPLIES_STREAM, reply_stream(VICTIM), EVENTS_STREAM, DEAD_LETTERS_STREAM,
    REDRIVES_STREAM, cancelled_key("t1"), login_key("x"),
]  # fmt: skip
OWN = reply_stream(AGENT)
HARMFUL: list[tuple[str | int, ...]] = [
    *(("XADD", stream, "MAXLEN", 0, "*", "event", "{}") for stream in OTHERS),
    *(("XADD", stream, MAX_ID, "event", "{}") for stream in OTHERS),
    *(("XTRIM", stream, "MAXLEN", 0) for stream in (*OTHERS, OWN)),
    *(("XSETID", stream, MAX_ID) for stream in (*OTHERS, OWN)),
    *(("DEL", stream) for stream in (*OTHERS, OWN)),
    *(("UNLINK", stream) for stream in OTHERS),
    *(("EXPIRE", stream, 0) for stream in OTHERS),
    *(("RENAME", stream, "gone") for stream in OTHERS),
    ("XGROUP", "DESTROY", task_stream(AGENT), agent_group(AGENT)),
    ("XGROUP", "SETID", task_stream(AGENT), agent_group(AGENT), MAX_ID),
    ("XGROUP", "DELCONSUMER", task_stream(VICTIM), agent_group(VICTIM), "c"),
    ("XDEL", task_stream(AGENT), "1-1"),
    ("EVAL", "while true do end", 0),
    ("EVAL_RO", "while true do end", 0),
    ("EVALSHA", "0" * 40, 0),
    ("SCRIPT", "LOAD", "while true do end"),
    ("FUNCTION", "LOAD", "#!lua name=m\nredis.register_function('m', function() while true do end end)"),
    ("FUNCTION", "DELETE", "flotilla1"),
    ("FCALL", "flotilla1_retire", 1, task_stream(VICTIM), agent_group(VICTIM), "c", 0),
    ("FCALL", "flotilla1_renew", 2, task_stream(AGENT), task_stream(VICTIM), "g", "c", "1-1"),
    ("FLUSHALL",), ("FLUSHDB",), ("SHUTDOWN",), ("DEBUG", "SLEEP", 5), ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "PAUSE", 10_000), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "SETUSER", AGENT, "+@all"),
    ("SWAPDB", 0, 1), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("PUBLISH", "c", "m"), ("INFO",),
]  # fmt: skip


async def test_an_agent_stops_trims_closes_and_blocks_nothing_of_others(mallory: Insider, admin: Redis) -> None:
    before = {stream: await admin.dump(stream) for stream in OTHERS}
    got_through = [command for command in HARMFUL if await mallory.attempt(*command) == "done"]
    assert got_through == []
    assert {stream: await admin.dump(stream) for stream in OTHERS} == before


async def test_one_call_of_a_function_holds_redis_for_an_instant_only(mallory: Insider, admin: Redis) -> None:
    del admin
    many = [f"1-{n}" for n in range(50_000)]
    call = ("FCALL", "flotilla1_renew", 1, task_stream(AGENT), agent_group(AGENT), "c")
    assert await mallory.attempt(*call, *many) == "error"


async def no_agents() -> list[str]:
    return []


async def test_an_agent_that_closes_its_own_stream_gets_a_new_one(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    nonsense = reply_event(task_id="t", agent=AGENT, tenant_id=TENANT, session_id="s", status="cancelled")
    assert await mallory.attempt("XADD", OWN, MAX_ID, "event", nonsense) == "done"
    assert await mallory.attempt("XADD", OWN, "*", "event", "{}") == "error"
    victim = await delegated(worker, admin, unique("task"), [VICTIM])
    async with answering(admin, VICTIM):
        assert (await victim.handle.result()).result == {"honest": True}  # nobody else noticed
    keeper = Housekeeping(admin, no_agents)

    async def open_again() -> bool:
        await keeper.go_round()
        return await mallory.attempt("XADD", OWN, "*", "event", "{}") == "done"

    await eventually(open_again, timeout_s=30)


async def test_an_agent_that_empties_its_own_stream_harms_its_own_answers_only(
    mallory: Insider, admin: Redis, worker: RunningWorker, unique: Callable[[str], str]
) -> None:
    own = await delegated(worker, admin, unique("own"), [AGENT])
    for _ in range(20):
        assert await mallory.attempt("XADD", OWN, "MAXLEN", 0, "*", "event", "{}") == "done"
    victim = await delegated(worker, admin, unique("task"), [VICTIM])
    async with answering(admin, VICTIM):
        assert (await victim.handle.result()).result == {"honest": True}
    await own.handle.terminate()


async def test_a_live_stream_is_out_of_reach_without_its_key(
    mallory: Insider, admin: Redis, unique: Callable[[str], str]
) -> None:
    run_id = unique("run")
    live = run_stream(run_id, "0" * 32)
    await admin.xadd(live, {"kind": "token", "data": "{}"})
    assert await mallory.attempt("XADD", run_stream(run_id, ""), MAX_ID, "kind", "token", "data", "{}") == "done"
    assert await mallory.attempt("XRANGE", live, "-", "+") == "refused"
    assert await mallory.attempt("XREAD", "STREAMS", live, "0") == "refused"
    assert await mallory.attempt("KEYS", "flotilla.runs.*") == "refused"
    assert await mallory.attempt("SCAN", 0, "MATCH", "flotilla.runs.*") == "refused"
    assert await admin.xlen(live) == 1


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
