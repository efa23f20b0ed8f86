"""The agent of `docs/foreign-agents.md`, in bash and Node: Redis, the envelope and a public key are enough."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.contracts import AgentReply
from flotilla.contracts.envelope import from_builtins, to_builtins
from flotilla.contracts.names import reply_stream, task_stream
from tests.contract.bus.test_asyncapi import carried
from tests.support.agents import put, sealed_fields, task
from tests.support.consumers import entries
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually

SCRIPT = Path(__file__).parents[3] / "docs/examples/foreign-agent.sh"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
def foreign_agent(redis_url: str) -> Iterator[None]:
    """The script, as long as the test."""
    environment = {**os.environ, "REDIS_URL": redis_url, "TICKET_KEY": str(PUBLIC_KEY_FILE)}
    with subprocess.Popen([SCRIPT], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.kill()


@pytest.mark.usefixtures("foreign_agent")
async def test_agent_in_bash_answers_what_the_bridge_understands(redis: Redis) -> None:
    wanted = task("t1", agent="shout", input={"text": 'say "hello"'})
    await put(redis, wanted)
    (event,) = await eventually(lambda: entries(redis, reply_stream("shout")), timeout_s=30)
    assert carried("flotilla.replies.{agent}", event) == 1
    reply = from_builtins(event["data"], AgentReply)
    assert (reply.task_id, reply.status, reply.result) == ("t1", "done", {"text": 'SAY "HELLO"'})
    assert not reply.persisted
    assert to_builtins(reply.events) == [{"kind": "message", "data": {"role": "assistant", "content": 'SAY "HELLO"'}}]
    (group,) = await redis.xinfo_groups(task_stream("shout"))
    assert group["pending"] == 0


@pytest.mark.usefixtures("foreign_agent")
async def test_agent_in_bash_works_on_nothing_that_the_worker_did_not_sign_or_nobody_waits_for(redis: Redis) -> None:
    stream = task_stream("shout")
    forged = sealed_fields(task("t1", agent="shout", input={"text": "forged"}))
    await redis.xadd(stream, {**forged, "event": forged["event"].replace(b"default", b"victim")})
    await redis.xadd(stream, {"event": forged["event"]})
    await redis.xadd(stream, {**forged, "ticket": "nonsense"})
    await put(redis, task("t1", agent="shout", input={"text": "late"}, deadline="2026-01-31T12:30:00+00:00"))
    await put(redis, task("t2", agent="shout", input={"text": "signed"}))
    (event,) = await eventually(lambda: entries(redis, reply_stream("shout")), timeout_s=30)
    assert event["data"]["task_id"] == "t2"
