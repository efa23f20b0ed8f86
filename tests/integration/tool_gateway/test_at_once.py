"""Calls that an agent asks for while it holds its task: stored, once, checked, else left to the worker."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from flotilla.agent.mcp_calls import ToolGatewayClient, open_tool_gateway_client
from flotilla.contracts.approvals import MAX_ARGS_BYTES
from flotilla.contracts.mcp import CALL_SCHEME, CALLS_PATH, McpCallAtOnce
from flotilla.contracts.requests import RAGRequest
from flotilla.contracts.tasks import McpCallNeeded
from flotilla.postgres import open_pool, suspended_tenants, tenant_transaction
from flotilla.workflows.calls.delegation import SUSPENDED
from tests.integration.tool_gateway.conftest import Desk
from tests.integration.tool_gateway.test_agents import Clerk, output, question, worker
from tests.integration.workflow_worker.test_gated_tools import decide, pending
from tests.support.agents import delegate, rows, running, session_events, task
from tests.support.postgres import Database
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

__all__ = ["question", "worker"]
ASKING = task("t1", "adder")
ACCEPT = "SELECT flotilla.accept_call_outcome($1, $2)"
CALL_ID = "t1.mcp." + "0" * 24
MAX_CALLS = 3
SUSPEND = """
INSERT INTO flotilla_ops.tenants (tenant_id, created_by, suspended_by, suspended_at, suspended_for)
VALUES ($1, 'otto', 'otto', now(), 'x')
"""
RESUME = """
UPDATE flotilla_ops.tenants SET suspended_by = NULL, suspended_at = NULL, suspended_for = NULL WHERE tenant_id = $1
"""

BEGINS_WAIT = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%begin_call_at_once%'
"""


@pytest.fixture
def further_settings() -> dict[str, Any]:
    return {"max_calls_per_task": MAX_CALLS}


@pytest.fixture
async def caller(desk: Desk) -> AsyncIterator[ToolGatewayClient]:
    """An agent's way to the tool gateway."""
    async with open_tool_gateway_client(desk.url) as client:
        yield client


@pytest.fixture
async def clerk(desk: Desk, worker: RunningWorker, caller: ToolGatewayClient) -> AsyncIterator[Clerk]:
    it = Clerk()
    await desk.allow_all("acme")
    async with running(it.agent, worker.pool, worker.redis, mcp_caller=caller):
        yield it


def asked(tool: str = "desk.add", **fields: Any) -> McpCallAtOnce:
    """A call of the task `ASKING`."""
    given = {"tenant_id": ASKING.tenant_id, "task_id": "t1", "attempt": 1, "secret": ASKING.secret, "call_id": CALL_ID}
    return McpCallAtOnce(tool=tool, **{**given, **fields})


def head_of(call: McpCallAtOnce) -> dict[str, str]:
    return {"authorization": call.authorization()}


async def post(desk: Desk, call: McpCallAtOnce, arguments: Any = None) -> tuple[int, Any]:
    """Return the status and the body of what the tool gateway answers."""
    async with httpx2.AsyncClient(base_url=desk.url, trust_env=False, timeout=30) as http:
        given = {"a": 1, "b": 2} if arguments is None else arguments
        response = await http.post(CALLS_PATH, json=given, headers=head_of(call))
        return response.status_code, response.json()


async def delegated(desk: Desk) -> None:
    await desk.allow_all()
    await delegate(desk.pool, ASKING)


async def test_a_call_is_made_while_its_task_is_held_and_stored_and_recorded_before_its_answer(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__add", {"a": 1, "b": 2}), ("mcp__desk__add", {"a": 1, "b": 2})]
    await (await worker.start_run(question)).result()
    assert json.loads(await output(worker, question)) == {"answers": [{"result": 3}, {"result": 3}]}
    assert desk.calls() == ["add 1 2", "add 1 2"]
    assert clerk.runs == 1
    events = await worker.events("acme", question.session_id)
    calls = [
        (str(event.data["tool"]), event.source) for event in events if event.type == "flotilla.session.tool_call.v1"
    ]
    made = [("desk.add", "/agents/mcp")] * 2
    assert sorted(calls) == [*made, *[("mcp__desk__add", "/agents/adder")] * 2]


async def test_a_call_that_people_have_to_approve_waits_for_them(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__wipe", {"path": "/desk"}), ("mcp__desk__add", {"a": 1, "b": 2})]
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    assert desk.calls() == ["add 1 2"]
    await decide(worker, approval)
    await handle.result()
    assert sorted(desk.calls()) == ["add 1 2", "wipe /desk"]


async def test_a_call_without_an_answer_is_asked_about_and_not_made_again(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__die", {})]
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    assert "was begun 1 times without an answer" in approval["description"]
    assert desk.calls() == ["die"]
    await decide(worker, approval, "reject")
    with pytest.raises(Exception, match="failed"):
        await handle.result()
    assert desk.calls() == ["die"]


async def test_a_stated_outcome_takes_the_place_of_a_second_call(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest, database: Database
) -> None:
    clerk.calls = [("mcp__desk__die", {})]
    handle = await worker.start_run(question)
    [approval] = await pending(worker)
    outcome = json.dumps({"content": [], "structured": {"seen": True}, "is_error": False})
    async with open_pool(database.dsn("flotilla_gateway"), application="test") as gateway:

        async def accepted(tenant_id: str) -> Any:
            async with tenant_transaction(gateway, tenant_id) as connection:
                return await connection.fetchval(ACCEPT, approval["approval_id"], outcome)

        assert await accepted("default") is None
        assert await accepted("acme") == "desk.die"
        assert await accepted("acme") is None
    await decide(worker, approval, "reject")
    await handle.result()
    assert json.loads(await output(worker, question)) == {"answers": [{"seen": True}]}
    assert desk.calls() == ["die"]


async def test_arguments_that_the_schema_refuses_are_refused_by_the_worker_s_way(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__add", {"a": "one", "b": 2})]
    handle = await worker.start_run(question)
    with pytest.raises(Exception, match="failed"):
        await handle.result()
    assert "arguments.a" in (await worker.run_row(question))["error"]
    assert desk.calls() == []


async def test_a_second_request_for_a_call_makes_it_no_second_time(desk: Desk) -> None:
    await delegated(desk)
    answers = await asyncio.gather(*(post(desk, asked()) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [200, 409, 409, 409, 409]
    assert (await post(desk, asked()))[0] == 409
    assert desk.calls() == ["add 1 2"]
    [row] = await rows(
        desk.pool, "SELECT status, attempt, result FROM flotilla.agent_tasks WHERE task_id = $1", CALL_ID
    )
    assert (row["status"], row["attempt"]) == ("done", 0)
    assert json.loads(row["result"])["structured"] == {"result": 3}
    called, returned = await session_events(desk.pool)
    assert (called["data"]["tool"], returned["data"]["ok"]) == ("desk.add", True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another"},
        {"secret": ""},
        {"attempt": 2},
        {"attempt": 0},
        {"tenant_id": "acme"},
        {"task_id": "t2"},
        {"call_id": "t2.mcp." + "0" * 24},
        {"call_id": "t1"},
        {"tool": "desk.\0"},
        {"attempt": 1 << 40},
        {"call_id": CALL_ID + "~1"},
        {"call_id": CALL_ID + "0" * 300},
    ],
)
async def test_a_caller_that_does_not_hold_the_task_gets_nothing(desk: Desk, wrong: dict[str, Any]) -> None:
    await delegated(desk)
    await desk.allow_all("acme")
    assert (await post(desk, replace(asked(), **wrong)))[0] == 403
    assert desk.calls() == []


async def test_a_task_that_is_over_calls_nothing(desk: Desk) -> None:
    await delegated(desk)
    await rows(desk.pool, "UPDATE flotilla.delegations SET state = 'cancelled' WHERE task_id = 't1'")
    assert (await post(desk, asked()))[0] == 403
    assert desk.calls() == []


async def test_a_tool_that_is_not_allowed_or_changed_is_left_to_the_worker(desk: Desk) -> None:
    await desk.offered()
    await delegate(desk.pool, ASKING)
    assert (await post(desk, asked()))[0] == 409
    await desk.allow_all()
    await rows(desk.pool, "UPDATE flotilla.allowed_tools SET sha256 = 'x' WHERE tool = 'add'")
    assert (await post(desk, asked()))[0] == 409
    assert desk.calls() == []


async def test_arguments_that_the_worker_refuses_for_their_size_are_left_to_it(desk: Desk) -> None:
    await delegated(desk)
    assert (await post(desk, asked(), {"text": "x" * MAX_ARGS_BYTES}))[0] == 409


async def test_a_call_in_hand_ends_before_the_tool_gateway_stops(desk: Desk) -> None:
    await delegated(desk)
    sent = asyncio.create_task(post(desk, asked("desk.slowly"), {"name": "a"}))

    async def begun() -> bool:
        return bool(await rows(desk.pool, "SELECT 1 FROM flotilla.tool_calls"))

    await eventually(begun, timeout_s=20)
    assert desk.runtime is not None
    desk.runtime.request_stop("it is updated")
    assert (await sent)[0] == 200
    assert desk.calls() == ["slowly a"]


async def test_a_large_request_is_refused(desk: Desk) -> None:
    await delegated(desk)
    assert (await post(desk, asked(), {"text": "x" * 1_000_000}))[0] == 413


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer x", 401),
        (f"{CALL_SCHEME} x", 401),
        (f"{CALL_SCHEME} e30=", 401),
        (asked(secret="another").authorization(), 403),
        (asked(call_id="t1").authorization(), 403),
    ],
)
async def test_who_holds_no_task_is_refused_before_the_body_arrives(
    desk: Desk, authorization: str, status: int
) -> None:
    await delegated(desk)
    place = urlsplit(desk.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    head = f"POST {CALLS_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\nContent-Length: 900000\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == str(status).encode()
    writer.close()


async def test_a_call_goes_on_and_is_stored_when_its_agent_is_gone(desk: Desk) -> None:
    await delegated(desk)
    async with httpx2.AsyncClient(base_url=desk.url, trust_env=False) as http:
        sent = asyncio.create_task(http.post(CALLS_PATH, json={}, headers=head_of(asked("desk.hang"))))

        async def begun() -> bool:
            return desk.calls() == ["hang"]

        await eventually(begun, timeout_s=20)
        sent.cancel()
    os.kill(int((desk.folder / "pid").read_text("utf-8")), signal.SIGKILL)

    async def raised() -> bool:
        [row] = await rows(desk.pool, "SELECT outcome FROM flotilla.tool_calls")
        return bool(row["outcome"] == "raised")

    await eventually(raised, timeout_s=20)


async def test_an_agent_without_a_tool_gateway_at_hand_leaves_its_calls_to_the_worker() -> None:
    async with open_tool_gateway_client("http://127.0.0.1:9") as away:
        wanted = McpCallNeeded(call_id=CALL_ID, tool="desk.add", arguments={"a": 1, "b": 2})
        assert await away.call_at_once(ASKING, wanted) is None


async def test_a_task_makes_no_more_calls_than_it_may_however_many_it_asks_for_at_once(desk: Desk) -> None:
    await delegated(desk)
    calls = [asked(call_id=f"t1.mcp.{number:024}") for number in range(8)]
    answers = await asyncio.gather(*(post(desk, call) for call in calls))
    assert sorted(status for status, _ in answers) == [200] * MAX_CALLS + [422] * 5
    assert desk.calls() == ["add 1 2"] * MAX_CALLS
    refused = next(body for status, body in answers if status == 422)
    assert f"made {MAX_CALLS} calls" in refused["reason"]
    made = next(call for call, (status, _) in zip(calls, answers, strict=True) if status == 200)
    assert (await post(desk, made))[0] == 409  # it is on record, and its answer can be had


async def test_calls_of_a_task_are_counted_over_all_its_tries(desk: Desk) -> None:
    await delegated(desk)
    for number in range(MAX_CALLS):
        assert (await post(desk, asked(call_id=f"t1.mcp.{number:024}")))[0] == 200
    await rows(desk.pool, "UPDATE flotilla.delegations SET state = 'failed' WHERE task_id = 't1'")
    await delegate(desk.pool, replace(ASKING, attempt=2))
    assert (await post(desk, asked(attempt=2, call_id=f"t1.mcp.{9:024}")))[0] == 422
    await delegate(desk.pool, replace(ASKING, task_id="t2"))
    assert (await post(desk, asked(task_id="t2", call_id=f"t2.mcp.{0:024}")))[0] == 200


async def test_a_call_over_the_limit_is_refused_and_not_made_by_the_worker_either(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest
) -> None:
    clerk.calls = [("mcp__desk__add", {"a": number, "b": 0}) for number in range(MAX_CALLS + 1)]
    handle = await worker.start_run(question)
    with pytest.raises(Exception, match="failed"):
        await handle.result()
    assert "FLOTILLA_MAX_CALLS_PER_TASK" in (await worker.run_row(question))["error"]
    assert len(desk.calls()) == MAX_CALLS


async def test_a_task_of_a_suspended_tenant_calls_nothing_unless_its_runs_are_to_end(desk: Desk) -> None:
    await delegated(desk)
    await rows(desk.pool, SUSPEND, "default")
    status, body = await post(desk, asked())
    assert (status, "suspended" in body["reason"]) == (409, True)
    assert desk.calls() == []
    await rows(desk.pool, "UPDATE flotilla_ops.tenants SET finishes_runs = true")
    assert (await post(desk, asked()))[0] == 200


async def test_a_call_of_a_tenant_that_is_suspended_meanwhile_waits_until_it_is_resumed(
    worker: RunningWorker, desk: Desk, clerk: Clerk, question: RAGRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspended_tenants, "FRESH_S", 0.0)  # else the worker may not know of it for a second

    async def suspend() -> None:
        await rows(desk.pool, SUSPEND, "acme")

    clerk.calls, clerk.before = [("mcp__desk__add", {"a": 1, "b": 2})], suspend
    handle = await worker.start_run(question)

    async def is_held() -> bool:
        failures = [event.activity_task_failed_event_attributes for event in (await handle.fetch_history()).events]
        return SUSPENDED in {failed.failure.application_failure_info.type for failed in failures}

    await eventually(is_held, timeout_s=30)
    assert desk.calls() == []
    clerk.before = None
    await rows(desk.pool, RESUME, "acme")
    await handle.result()
    assert json.loads(await output(worker, question)) == {"answers": [{"result": 3}]}
    assert desk.calls() == ["add 1 2"]


async def test_a_task_of_a_replay_reaches_no_server_though_its_agent_asks(desk: Desk) -> None:
    await delegated(desk)
    await rows(desk.pool, "UPDATE flotilla.sessions SET kind = 'replay'")
    assert (await post(desk, asked()))[0] == 403
    assert desk.calls() == []


async def test_a_task_that_is_closed_while_its_call_waits_to_begin_calls_nothing(
    desk: Desk, database: Database
) -> None:
    await delegated(desk)
    looking = await asyncpg.connect(database.superuser_dsn)

    async def begin_waits() -> bool:
        return bool(await looking.fetchval(BEGINS_WAIT))

    try:
        async with tenant_transaction(desk.pool, ASKING.tenant_id) as closing:
            await closing.execute("UPDATE flotilla.delegations SET state = 'failed' WHERE task_id = 't1'")
            posting = asyncio.create_task(post(desk, asked()))
            await eventually(begin_waits, timeout_s=20)
    finally:
        await looking.close()
    status, body = await posting
    assert (status, "the asking task is over" in body["reason"]) == (409, True)
    assert desk.calls() == []
