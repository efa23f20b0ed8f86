"""The bus on its own, as in the ten lines of `docs/bus.md`."""

import asyncio

import pytest

from flotilla.bus import AWAY, AgentEventBus, ConsumerOptions, LiveRunWriter, Redis, connect_redis
from flotilla.contracts import AgentEvent
from flotilla.contracts.errors import RetryLater
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import event
from tests.support.waiting import eventually

LIVE = "flotilla.runs.r1.key"


async def test_script_of_ten_lines_publishes_and_subscribes(any_redis: Redis) -> None:
    seen: list[AgentEvent] = []

    async def keep(received: AgentEvent) -> None:
        seen.append(received)

    bus = AgentEventBus(any_redis)
    sent = event(hello="world")
    await bus.publish("news", sent)
    stop = asyncio.Event()
    listening = asyncio.create_task(bus.subscribe("news", "printers", "printer-1", keep, stop=stop))
    await eventually(lambda: seen)
    stop.set()
    await listening
    assert (seen[0].id, seen[0].data) == (sent.id, {"hello": "world"})


async def test_every_group_gets_every_event_and_each_of_its_members_a_share(redis: Redis) -> None:
    seen: dict[str, list[str]] = {"g1-a": [], "g1-b": [], "g2-a": []}
    stop = asyncio.Event()
    bus = AgentEventBus(redis)

    async def listen(member: str) -> None:
        async def keep(received: AgentEvent) -> None:
            seen[member].append(received.subject)

        options = ConsumerOptions(concurrency=1, block_ms=100)
        await bus.subscribe("news", member.split("-", maxsplit=1)[0], member, keep, options=options, stop=stop)

    async with asyncio.TaskGroup() as group:
        for member in seen:
            group.create_task(listen(member))
        sent = [f"n{n}" for n in range(20)]
        for subject in sent:
            await bus.publish("news", event(subject))
        await eventually(lambda: sum(map(len, seen.values())) == 40)
        stop.set()
    assert sorted(seen["g1-a"] + seen["g1-b"]) == sorted(sent)
    assert sorted(seen["g2-a"]) == sorted(sent)


async def test_concurrent_publishes_keep_each_callers_order_and_answer(redis: Redis) -> None:
    bus = AgentEventBus(redis)

    async def publish_three(name: str) -> list[str]:
        return [await bus.publish("news", event(f"{name}-{n}")) for n in range(3)]

    answers = await asyncio.gather(*(publish_three(f"p{n}") for n in range(50)))
    assert all(ids == sorted(ids, key=lambda entry_id: tuple(map(int, entry_id.split("-")))) for ids in answers)
    assert await redis.xlen("news") == 150


async def test_live_feed_loses_tokens_rather_than_tasks_while_redis_is_away(redis_server: RedisServer) -> None:
    async with connect_redis(redis_server.url) as redis:
        feed = LiveRunWriter(redis)
        redis_server.kill()
        await feed.write_token(LIVE, "lost", task_id="t1", attempt=1)
        await feed.wait_until_written()
        redis_server.start()
        redis_server.wait_ready()
        await eventually(lambda: _written(feed, redis))


async def test_publish_while_redis_is_away_says_to_retry(redis_server: RedisServer) -> None:
    async with connect_redis(redis_server.url) as redis:
        bus = AgentEventBus(redis)
        redis_server.kill()
        with pytest.raises(RetryLater, match="Redis is unavailable"):
            await bus.publish("news", event())
    redis_server.start()
    redis_server.wait_ready()


async def _written(feed: LiveRunWriter, redis: Redis) -> bool:
    await feed.write_run_ended(LIVE, "success")
    try:
        return bool(await redis.exists(LIVE))
    except AWAY:
        return False
