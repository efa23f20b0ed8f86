"""Each service's Redis user on a real server: everything it needs, nothing of others."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from redis.exceptions import NoPermissionError

from flotilla.bus import (
    DONE,
    AgentEventBus,
    BusHousekeeping,
    Consumer,
    ConsumerOptions,
    Delivery,
    HandlerResult,
    LiveRunWriter,
    Redis,
    check_redis,
    connect_redis,
    ensure_group,
    entry_exists,
)
from flotilla.bus.acl import fleet_redis_permissions, format_acl_file
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.functions import load_redis_functions
from flotilla.contracts.errors import ConfigurationError, DeadLetter, RetryLater
from flotilla.contracts.names import (
    BRIDGE_GROUP,
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    agent_group,
    cancelled_key,
    login_key,
    reply_stream,
    run_stream,
    task_stream,
)
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import event
from tests.support.waiting import eventually

USERS = fleet_redis_permissions()
REPLIES = reply_stream("research")


@pytest.fixture
async def guarded(any_redis: Redis, any_server: RedisServer) -> RedisServer:
    """A server that knows every user of the fleet, with its name as its password."""
    for name, grant in USERS.items():
        await execute_redis_command(any_redis, "ACL", "SETUSER", name, *grant.acl_rules(), f">{name}")
    for agent in ("research", "write"):
        await ensure_group(any_redis, task_stream(agent), agent_group(agent))
    await ensure_group(any_redis, REPLIES, BRIDGE_GROUP)
    await load_redis_functions(any_redis)
    return any_server


@asynccontextmanager
async def user(server: RedisServer, name: str) -> AsyncIterator[Redis]:
    async with connect_redis(server.url.replace("redis://", f"redis://{name}:{name}@")) as client:
        await check_redis(client)
        yield client


async def test_a_wrong_password_is_refused_not_taken_for_a_server_that_is_away(guarded: RedisServer) -> None:
    async with connect_redis(guarded.url.replace("redis://", "redis://gateway:wrong@")) as client:
        with pytest.raises(RetryLater, match=r"Redis refuses this client: .*check FLOTILLA_REDIS_URL and its user"):
            await check_redis(client)


async def test_agent_can_do_all_that_an_agent_does(guarded: RedisServer, any_redis: Redis) -> None:
    stream = task_stream("research")

    async def answer(delivery: Delivery) -> HandlerResult:
        if delivery.event.subject == "bad":
            raise DeadLetter("bad")
        await asyncio.sleep(0.5)
        return HandlerResult([(REPLIES, event())])

    async with user(guarded, "research-agent") as redis:
        options = ConsumerOptions(min_idle_ms=150, block_ms=100)
        consumer = Consumer(redis, stream, agent_group("research"), "c", answer, options)
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        for subject in ("good", "bad"):
            await AgentEventBus(any_redis).publish(stream, event(subject))
        await eventually(lambda: answered(any_redis))
        await LiveRunWriter(redis).write_run_ended(run_stream("r1", "key"), "success")
        await AgentEventBus(redis).publish(REPLIES, event())
        assert await execute_redis_command(redis, "EXISTS", cancelled_key("t1")) == 0
        stop.set()
        await running
    assert await any_redis.xlen(run_stream("r1", "key")) == 1
    assert (await any_redis.xinfo_groups(stream))[0]["pending"] == 0
    assert await execute_redis_command(any_redis, "ACL", "LOG") == []


async def answered(redis: Redis) -> bool:
    """The answer; the announcement of the dead letter."""
    return bool(await redis.xlen(REPLIES) >= 2)


@pytest.mark.parametrize(
    "command",
    [
        ("XREADGROUP", "GROUP", "write-agents", "c", "STREAMS", task_stream("write"), ">"),
        ("XRANGE", task_stream("write"), "-", "+"),
        ("XREADGROUP", "GROUP", BRIDGE_GROUP, "c", "STREAMS", REPLIES, ">"),
        ("XRANGE", REPLIES, "-", "+"),
        ("XADD", reply_stream("write"), "*", "event", "{}"),
        ("XADD", REPLIES_STREAM, "*", "event", "{}"),
        ("XADD", EVENTS_STREAM, "MAXLEN", 0, "*", "event", "{}"),
        ("XADD", DEAD_LETTERS_STREAM, "*", "event", "{}"),
        ("XADD", REDRIVES_STREAM, "*", "event", "{}"),
        ("XADD", task_stream("research"), "*", "event", "{}"),
        ("XADD", task_stream("write"), "18446744073709551615-18446744073709551615", "event", "{}"),
        ("XRANGE", run_stream("r1", "key"), "-", "+"),
        ("EVAL", "return 1", 0),
        ("EVALSHA", "0" * 40, 0),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=mine\nredis.register_function('f', function() return 1 end)"),
        ("FUNCTION", "FLUSH"),
        ("FCALL", "flotilla1_renew", 1, task_stream("write"), "write-agents", "c", "1-1"),
        ("FCALL", "flotilla1_count_after", 1, REPLIES, "0-0"),
        ("XACK", task_stream("write"), "write-agents", "1-1"),
        ("XCLAIM", task_stream("write"), "write-agents", "c", 0, "1-1"),
        ("XGROUP", "CREATE", task_stream("write"), "spies", "0"),
        ("XGROUP", "DELCONSUMER", task_stream("write"), "write-agents", "c"),
        ("DEL", task_stream("research")),
        ("XTRIM", task_stream("research"), "MAXLEN", 0),
        ("SET", cancelled_key("t1"), "1"),
        ("GET", "anything"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("KEYS", "*"),
        ("EVAL", "return redis.call('XRANGE', KEYS[1], '-', '+')", 1, task_stream("write")),
    ],
)
async def test_agent_cannot_touch_what_is_not_its_own(guarded: RedisServer, command: tuple[str | int, ...]) -> None:
    async with user(guarded, "research-agent") as redis:
        with pytest.raises(Exception, match=r"(?i)permission|can't run this command"):
            await execute_redis_command(redis, *command)


async def test_worker_can_do_all_that_the_worker_does(guarded: RedisServer, any_redis: Redis) -> None:
    async def known() -> list[str]:
        return ["research", "later"]

    async def acknowledge(_: Delivery) -> HandlerResult:
        return DONE

    async with user(guarded, "workflow-worker") as redis:
        entry_id = await AgentEventBus(redis).publish(task_stream("research"), event())
        assert await entry_exists(redis, task_stream("research"), entry_id)
        await redis.set(cancelled_key("t1"), "1", ex=60)
        await LiveRunWriter(redis).write_run_ended(run_stream("r1", "key"), "success")
        await any_redis.xadd(EVENTS_STREAM, {"event": b"{}"})
        await BusHousekeeping(redis, known, stale_after_ms=0).run_round()
        await AgentEventBus(redis).publish(REPLIES, event())
        stop = asyncio.Event()
        bridge = Consumer(redis, REPLIES, BRIDGE_GROUP, "bridge", acknowledge, ConsumerOptions(block_ms=100))
        running = asyncio.create_task(bridge.run(stop))
        await eventually(partial(_read, any_redis, REPLIES))
        stop.set()
        await running
    assert await any_redis.exists(task_stream("later"), run_stream("r1", "key")) == 2
    assert await execute_redis_command(any_redis, "ACL", "LOG") == []


async def test_gateway_reads_live_runs_and_redrives_and_no_more(guarded: RedisServer, any_redis: Redis) -> None:
    await LiveRunWriter(any_redis).write_run_ended(run_stream("r1", "key"), "success")
    async with user(guarded, "gateway") as redis:
        assert await redis.xread({run_stream("r1", "key"): "0"})
        await redis.xadd(REDRIVES_STREAM, {"event": b"{}"})
        await redis.set(login_key("digest"), "note", ex=60)
        assert await redis.getdel(login_key("digest")) == b"note"
        with pytest.raises(NoPermissionError):
            await redis.set(cancelled_key("t"), "1")
        with pytest.raises(NoPermissionError):
            await redis.xadd(EVENTS_STREAM, {"event": b"{}"})
        for stream in (task_stream("research"), REPLIES, REPLIES_STREAM, run_stream("r1", "key")):
            with pytest.raises(NoPermissionError):
                await redis.xadd(stream, {"event": b"{}"})
        with pytest.raises(NoPermissionError):
            await execute_redis_command(redis, "XREADGROUP", "GROUP", BRIDGE_GROUP, "c", "STREAMS", REPLIES, ">")


async def test_scaler_sees_lag_and_pending_but_no_entry(guarded: RedisServer) -> None:
    async with user(guarded, "scaler") as redis:
        assert await redis.xinfo_groups(task_stream("research"))
        assert await redis.xpending(task_stream("research"), agent_group("research"))
        with pytest.raises(NoPermissionError):
            await redis.xrange(task_stream("research"))


async def test_users_file_is_one_that_the_server_loads(any_redis: Redis) -> None:
    text = format_acl_file(USERS, {name: f"secret of {name}" for name in USERS})
    assert "secret" not in text
    for line in text.splitlines():
        _, name, *rules = re.findall(r"\([^)]*\)|\S+", line)
        if name != "default":
            await execute_redis_command(any_redis, "ACL", "SETUSER", name, *rules)
    with pytest.raises(ConfigurationError, match="REDIS_PASSWORD_GATEWAY"):
        format_acl_file(USERS, {})


async def _read(redis: Redis, stream: str) -> bool:
    (group,) = await redis.xinfo_groups(stream)
    return bool(group["lag"] == 0 and group["pending"] == 0)
