"""An agent in TypeScript keeps what the Python SDK promises: the same cases, on real servers."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.contracts.names import agent_group, cancelled_key, run_stream, task_stream
from flotilla.postgres import Pool
from flotilla.testing import FakeModel
from tests.contract.agent.test_kit import in_process
from tests.support.agents import open_session, publish, put, replies, rows, sealed_fields, session_events, task
from tests.support.consumers import pending
from tests.support.scripted_endpoint import ScriptedEndpoint, events, finished, running_endpoint
from tests.support.typescript_agent import NAME, PROGRAM, build, sidecar, variables
from tests.support.waiting import eventually

_DECIDE = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, approval_status, request, finished_at)
VALUES ('default', $1, 's1', 'w', $2, 'd', $3, 'medium', '/agents/x', $4, $5, now())
"""

ALLOWED = "charge, explode, hang, pay, refuse, settle, shout, twice"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the agent's tools write what they do."""
    file = tmp_path / "outside"
    file.touch()
    monkeypatch.setenv("OUTSIDE", str(file))
    return file


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedEndpoint]:
    """The model's, which the sidecar asks."""
    async with running_endpoint(ScriptedEndpoint(events("It is ", "paid", *finished()))) as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("FLOTILLA_LLM_MODEL", "m")
        yield served


@pytest.fixture(autouse=True)
async def session(pool: Pool) -> None:
    await open_session(pool)


def lines(outside: Path) -> list[str]:
    return outside.read_text().splitlines()


def asked(how: str, text: str = "hello", **fields: Any) -> Any:
    return task(fields.pop("task_id", "t1"), agent=NAME, input={"text": text, "how": how}, **fields)


async def ended(redis: Redis, count: int = 1) -> list[dict[str, Any]]:
    """The replies that end a try, once there are `count`."""

    async def enough() -> list[dict[str, Any]]:
        found = [reply for reply in await replies(redis, agent=NAME) if reply["status"] != "progress"]
        return found if len(found) >= count else []

    return await eventually(enough, timeout_s=60)


async def kinds(pool: Pool) -> list[str]:
    return [event["type"].split(".")[2] for event in await session_events(pool)]


@pytest.fixture
def impatient(outside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent whose tasks may take half a second."""
    monkeypatch.setenv("TIMEOUT_S", "0.5")
    return outside


@pytest.mark.parametrize("how", ["well", "forbidden", "explode", "record", "slow", 7])
@pytest.mark.usefixtures("impatient")
async def test_it_comes_to_the_same_end_as_an_agent_in_python(
    pool: Pool, redis: Redis, redis_url: str, how: Any
) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked(how))
        (reply,) = await ended(redis)
    progress = [one["progress"] for one in await replies(redis, "progress", agent=NAME)]
    status, result, failure, recorded, said = await in_process({"text": "hello", "how": how}, FakeModel())
    if how == 7:  # no text: each library has words of its own for that
        assert "input of contract" in reply["failure"]["message"]
        reply["failure"] |= {name: failure[name] for name in ("type", "message")}
    if how == "forbidden":  # this agent has more tools
        reply["failure"]["message"] = reply["failure"]["message"].replace(ALLOWED, "explode, shout")
    assert (reply["status"], reply["result"], reply["failure"]) == (status, result, failure)
    assert (await kinds(pool), progress) == (recorded, said)


async def test_it_registers_with_its_schemas_and_leaves_its_group(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    async with sidecar(pool, redis_url) as runtime:
        await publish(pool, redis, asked("drains"))
        await eventually(lambda: lines(outside))
        runtime.request_stop("deployment")  # what it has in hand is finished
        (reply,) = await ended(redis)
        assert reply["result"] == {"text": "finished"}
    (row,) = await rows(pool, "SELECT * FROM flotilla_ops.agents WHERE name = 'contract'")
    assert (row["version"], row["concurrency"], row["timeout_s"]) == ("7", 8, 30)
    assert json.loads(row["input_schema"])["properties"]["how"] == {"default": "well", "type": "string"}
    assert await redis.xinfo_consumers(task_stream(NAME), agent_group(NAME)) == []


@pytest.mark.usefixtures("endpoint")
async def test_the_model_its_tokens_and_the_turns_of_the_session(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    async with sidecar(pool, redis_url):
        for number, how in enumerate(("model", "tokens", "turns", "nested", "refuse")):
            await publish(pool, redis, asked(how, "abc", task_id=f"t{number}"))
        found = {reply["task_id"]: reply["result"] for reply in await ended(redis, 5)}
    texts = [found[f"t{number}"]["text"] for number in range(5)]
    assert texts == ["It is paid", "abc", "[]", "ABCABC", "Error: not today"]
    assert [row["task_id"] for row in await rows(pool, "SELECT task_id FROM flotilla.llm_calls")] == ["t0"]
    found_live: Any = await redis.xrange(run_stream("r1", "key"))
    shown = [json.loads(fields[b"data"]) for _, fields in found_live]
    assert "".join(one["text"] for one in shown if one.get("task_id") == "t1" and "text" in one) == "abc"
    assert lines(outside) == []


async def test_killed_in_the_middle_it_pays_once_and_asks_the_model_once(
    pool: Pool, redis_url: str, redis: Redis, outside: Path, endpoint: ScriptedEndpoint
) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked("once"))
        await eventually(lambda: len(lines(outside)) == 2)
        os.kill(int(lines(outside)[1].removeprefix("run ")), signal.SIGKILL)
        (reply,) = await ended(redis)
    charged, *runs = lines(outside)
    assert charged.startswith("charged 7 ")
    assert len(set(runs)) == 2
    assert (reply["result"], len(endpoint.requests)) == ({"text": "7 It is paid"}, 1)
    assert await kinds(pool) == ["state_change", "tool_call", "tool_result"]
    assert await pending(redis, task_stream(NAME), agent_group(NAME)) == 0


@pytest.mark.usefixtures("endpoint")
async def test_its_sidecar_is_killed_and_another_one_takes_over(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    build()
    given = await variables(pool, redis_url, metrics_port=0, metrics_host="127.0.0.1")
    environment = {**os.environ, **{f"FLOTILLA_{name.upper()}": str(value) for name, value in given.items()}}
    command = (sys.executable, "-m", "flotilla.agent.sidecar", *PROGRAM)
    killed = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.DEVNULL)
    try:
        await publish(pool, redis, asked("once"))
        await eventually(lambda: len(lines(outside)) == 2, timeout_s=60)
        program = int(lines(outside)[1].removeprefix("run "))
    finally:
        killed.kill()
        await killed.wait()
    await eventually(lambda: not Path(f"/proc/{program}").exists())  # nobody started it, so nobody waits for it
    async with sidecar(pool, redis_url):
        (reply,) = await ended(redis)
    assert (reply["status"], len([line for line in lines(outside) if "charged" in line])) == ("done", 1)


async def test_a_gated_call_waits_for_people_and_runs_as_they_approved_it(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    async with sidecar(pool, redis_url):
        for task_id, how in (("t1", "pay"), ("t2", "swallow")):
            await publish(pool, redis, asked(how, task_id=task_id))
        waiting = {reply["task_id"]: reply["failure"] for reply in await ended(redis, 2)}
        assert {failure["type"] for failure in waiting.values()} == {"ApprovalRequired"}
        assert lines(outside) == []
        (needed,) = waiting["t1"]["approvals"]
        assert (needed["action"], needed["description"]) == ("contract.pay", "Transfer money.")
        assert needed["args"] == {"cents": 5, "currency": "EUR"}
        await decide(pool, needed, {"cents": 4, "currency": "EUR"}, "approved")
        await decide(pool, waiting["t2"]["approvals"][0], needed["args"], "rejected", "t2")
        await publish(pool, redis, asked("pay", attempt=2))
        await publish(pool, redis, asked("pay", task_id="t2", attempt=2))
        _, _, *last = await ended(redis, 4)
    by_task = {reply["task_id"]: reply for reply in last}
    assert by_task["t1"]["result"] == {"text": "paid 4"}
    assert by_task["t2"]["failure"]["type"] == "ApprovalRefused"
    (paid,) = lines(outside)
    assert paid.startswith("paid 4 EUR ")


async def test_a_tool_that_calls_a_gated_one_pauses_with_it(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked("settle"))
        (reply,) = await ended(redis)
        needed = reply["failure"]["approvals"][0]
        await decide(pool, needed, needed["args"], "approved")
        await publish(pool, redis, asked("settle", attempt=2))
        _, done = await ended(redis, 2)
    assert (reply["failure"]["type"], done["result"]) == ("ApprovalRequired", {"text": "paid 9"})
    assert len(lines(outside)) == 1


@pytest.mark.usefixtures("endpoint", "outside")
async def test_the_program_gets_no_secret_of_the_sidecar(pool: Pool, redis: Redis, redis_url: str) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked("environment"))
        (reply,) = await ended(redis)
    assert reply["result"] == {"text": "FLOTILLA_SIDECAR_KEY,FLOTILLA_SIDECAR_URL"}


async def decide(pool: Pool, needed: Any, args: Any, status: str, task_id: str = "t1") -> None:
    """What people decided, as their workflow leaves it."""
    request = json.dumps({"task_id": task_id})
    await rows(pool, _DECIDE, needed["approval_id"], needed["action"], json.dumps(args), status, request)


async def test_a_call_without_an_answer_is_not_made_again_where_the_tool_forbids_it(
    pool: Pool, redis: Redis, redis_url: str, impatient: Path
) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked("unknown"))
        await ended(redis)
        await publish(pool, redis, asked("unknown", attempt=2))
        _, reply = await ended(redis, 2)
    assert (reply["failure"]["type"], reply["failure"]["retryable"]) == ("ToolOutcomeUnknown", False)
    assert lines(impatient) == ["hangs"]


async def test_a_cancelled_task_is_aborted(pool: Pool, redis: Redis, redis_url: str, outside: Path) -> None:
    async with sidecar(pool, redis_url):
        await publish(pool, redis, asked("cancelled"))
        await eventually(lambda: replies(redis, "progress", agent=NAME))
        await redis.set(cancelled_key("t1"), "1")
        (reply,) = await ended(redis)
        await eventually(lambda: lines(outside))
    assert (reply["status"], lines(outside)) == ("cancelled", ["aborted TaskCancelled"])


async def test_unsigned_and_late_tasks_never_reach_it_and_a_fatal_one_becomes_a_dead_letter(
    pool: Pool, redis: Redis, redis_url: str, outside: Path
) -> None:
    forged = sealed_fields(asked("well"))
    await redis.xadd(task_stream(NAME), {**forged, "event": forged["event"].replace(b"default", b"victim")})
    await put(redis, asked("well", deadline="2026-01-31T12:30:00+00:00"))
    async with sidecar(pool, redis_url):
        await eventually(lambda: rows(pool, "SELECT 1 FROM flotilla.dead_letters"))
        await publish(pool, redis, asked("number", task_id="t2"))
        reply = (await ended(redis, 2))[-1]  # after the failure of the late one
    assert (reply["task_id"], reply["status"], reply["failure"]["retryable"]) == ("t2", "failed", False)
    assert "BigInt" in reply["failure"]["message"]
    assert lines(outside) == []
