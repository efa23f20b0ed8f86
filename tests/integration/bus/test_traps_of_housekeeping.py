"""The trap table of `docs/bus.md`: trimming, backpressure, groups after a loss, names of old pods."""

import asyncio
from typing import Any

import pytest

from flotilla.bus import (
    AWAY,
    DONE,
    BusHousekeeping,
    Delivery,
    HandlerResult,
    Publisher,
    Redis,
    connect_redis,
    ensure_group,
    entry_exists,
)
from flotilla.bus.channels import ANNOUNCEMENTS_MAXLEN
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.groups import retire_idle_consumer
from flotilla.bus.housekeeping import load_group_states
from flotilla.contracts.errors import DeadLetter, RetryLater
from flotilla.contracts.names import EVENTS_STREAM, REPLIES_STREAM, task_stream
from flotilla.postgres import Pool
from flotilla.telemetry.metrics import STREAM_LAG, STREAM_PENDING
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import consuming, event, pending
from tests.support.redriving import redriving
from tests.support.traps import GROUP, STREAM, acknowledge, handled, raw, requested
from tests.support.waiting import eventually

_FILL = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'event', '{}') end"


def housekeeping(redis: Redis, *agents: str, **options: Any) -> BusHousekeeping:
    async def registered() -> list[str]:
        return list(agents)

    return BusHousekeeping(redis, registered, **options)


async def test_housekeeping_makes_the_groups_of_agents_at_zero_replicas_again(any_redis: Redis) -> None:
    await any_redis.flushall()
    await housekeeping(any_redis, "adder").run_round()
    await Publisher(any_redis).publish(STREAM, requested())
    (state,) = await load_group_states(any_redis, STREAM)
    assert (state.group, state.lag, state.pending) == (GROUP, 1, 0)
    assert [state.group for state in await load_group_states(any_redis, REPLIES_STREAM)] == ["workflow-bridge"]


async def test_trimming_keeps_everything_that_is_not_handled(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    ids = [await publisher.publish(STREAM, requested(f"t{n}")) for n in range(6)]
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=4)
    await any_redis.xack(STREAM, GROUP, ids[0], ids[1], ids[3])
    await housekeeping(any_redis).run_round()
    assert [entry_id.decode() for entry_id, _ in await raw(any_redis)] == ids[2:]
    assert not await entry_exists(any_redis, STREAM, ids[1])
    assert await entry_exists(any_redis, STREAM, ids[2])


async def test_trimming_leaves_lag_known(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    for n in range(5):
        await publisher.publish(STREAM, requested(f"t{n}"))
    read: Any = await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=3)
    await any_redis.xack(STREAM, GROUP, *[entry_id for entry_id, _ in read[0][1]])
    await housekeeping(any_redis).run_round()
    (row,) = await any_redis.xinfo_groups(STREAM)
    assert row["lag"] == 2
    assert STREAM_LAG.labels(STREAM, GROUP)._value.get() == 2
    assert STREAM_PENDING.labels(STREAM, GROUP)._value.get() == 0


async def test_task_streams_never_see_xdel(redis: Redis, pool: Pool) -> None:
    async def refuse_some(delivery: Delivery) -> HandlerResult:
        if delivery.event.taskid == "t1":
            raise DeadLetter("no")
        return DONE

    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, STREAM, refuse_some, group=GROUP, dead_letters=letters):
        for n in range(3):
            await Publisher(redis).publish(STREAM, requested(f"t{n}"))
        (kept,) = await eventually(lambda: letters.list_dead_letters("default"))
        async with redriving(redis, pool):
            await letters.request_redrive(redis, "default", kept.dead_letter_id)
            await eventually(lambda: refused_twice(letters))
        await eventually(lambda: handled(redis))
        await housekeeping(redis).run_round()
    assert await redis.xlen(STREAM) == 0
    commands: dict[str, Any] = await execute_redis_command(redis, "INFO", "commandstats")
    assert "cmdstat_xdel" not in commands


async def refused_twice(letters: PostgresDeadLetterStore) -> bool:
    return len(await letters.list_dead_letters("default", closed_too=True)) == 2


async def test_lag_is_counted_where_redis_does_not_know_it(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    ids = [await publisher.publish(STREAM, requested(f"t{n}")) for n in range(5)]
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=2)
    await any_redis.xdel(STREAM, ids[3])
    (row,) = await any_redis.xinfo_groups(STREAM)
    assert row["lag"] is None
    (state,) = await load_group_states(any_redis, STREAM)
    assert state.lag == 2


async def test_trimming_looks_at_the_contracts_group_only(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    await ensure_group(redis, STREAM, GROUP)
    await ensure_group(redis, STREAM, "abandoned")
    entry_id = await Publisher(redis).publish(STREAM, requested())
    await redis.xreadgroup(GROUP, "c1", {STREAM: ">"})
    await redis.xack(STREAM, GROUP, entry_id)
    keeper = housekeeping(redis)
    await keeper.run_round()
    await keeper.run_round()
    assert await redis.xlen(STREAM) == 0
    assert capsys.readouterr().out.count("bus_foreign_group") == 1


async def test_announcements_are_kept_short_by_length(any_redis: Redis) -> None:
    # Filled inside Redis, a few thousand at a time: one pipeline of them all has five seconds to be written in, which
    # a busy machine does not keep.
    for _ in range(ANNOUNCEMENTS_MAXLEN // 5_000 + 1):
        await execute_redis_command(any_redis, "EVAL", _FILL, 1, EVENTS_STREAM, 5_000)
    await Publisher(any_redis).publish(EVENTS_STREAM, event())
    assert await any_redis.xlen(EVENTS_STREAM) <= ANNOUNCEMENTS_MAXLEN + 200  # approximate: whole nodes of 100


async def test_full_stream_refuses_more_until_it_is_drained(redis: Redis) -> None:
    await ensure_group(redis, STREAM, GROUP)
    publisher = Publisher(redis, hard_limit=3)
    for n in range(3):
        await publisher.publish(STREAM, requested(f"t{n}"))
    with pytest.raises(RetryLater, match="agents are behind"):
        await publisher.publish(STREAM, requested("t3"))
    async with consuming(redis, STREAM, acknowledge, group=GROUP):
        await eventually(lambda: handled(redis))
    await housekeeping(redis).run_round()
    await publisher.publish(STREAM, requested("t3"))


async def test_redis_out_of_memory_asks_to_retry_later(redis: Redis) -> None:
    await redis.config_set("maxmemory", "1mb")
    publisher = Publisher(redis)
    sent = (publisher.publish(STREAM, event(text="x" * 100_000)) for _ in range(30))
    answers = await asyncio.gather(*sent, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, RetryLater)]
    assert refused
    assert "does not accept" in str(refused[0])
    await redis.config_set("maxmemory", "0")


async def test_answers_that_redis_has_no_room_for_do_not_take_others_with_them(redis: Redis) -> None:
    """An acknowledgement alone needs no memory: it goes through while replies wait."""

    async def answer(delivery: Delivery) -> HandlerResult:
        return HandlerResult([("answers", event("big"))]) if delivery.event.subject == "talkative" else DONE

    await ensure_group(redis, STREAM, GROUP)
    await Publisher(redis).publish(STREAM, event("talkative"))
    await Publisher(redis).publish(STREAM, event("silent"))
    await redis.config_set("maxmemory", "1")
    async with consuming(redis, STREAM, answer, group=GROUP, min_idle_ms=200):
        await eventually(lambda: _pending_is(redis, 1))
        await redis.config_set("maxmemory", "0")
        await eventually(lambda: _pending_is(redis, 0))
    assert await redis.xlen("answers") == 1


async def test_stale_consumer_goes_but_never_with_its_pending_entries(any_redis: Redis) -> None:
    await ensure_group(any_redis, STREAM, GROUP)
    await Publisher(any_redis).publish(STREAM, requested())
    await any_redis.xreadgroup(GROUP, "with-pending", {STREAM: ">"})
    await any_redis.xgroup_createconsumer(STREAM, GROUP, "idle")
    keeper = housekeeping(any_redis, stale_after_ms=2_000)
    await eventually(lambda: _idle_for(any_redis, "idle", 2_000))
    # Redis 7.0 does not notice a read that finds nothing, so this one finds something.
    entry_id = await Publisher(any_redis).publish(STREAM, requested("t2"))
    await any_redis.xreadgroup(GROUP, "alive", {STREAM: ">"})
    await any_redis.xack(STREAM, GROUP, entry_id)
    await keeper.run_round()
    names = {row["name"] for row in await any_redis.xinfo_consumers(STREAM, GROUP)}
    assert names == {b"with-pending", b"alive"}
    assert await pending(any_redis, STREAM, GROUP) == 1


async def test_retiring_looks_at_pending_entries_in_the_same_step(any_redis: Redis) -> None:
    """An entry may be delivered between the look and the removal, and would go with the consumer."""
    await ensure_group(any_redis, STREAM, GROUP)
    entry_id = await Publisher(any_redis).publish(STREAM, requested())
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"})
    assert not await retire_idle_consumer(any_redis, STREAM, GROUP, "c1")
    assert await pending(any_redis, STREAM, GROUP) == 1
    await any_redis.xack(STREAM, GROUP, entry_id)
    assert await retire_idle_consumer(any_redis, STREAM, GROUP, "c1")


async def test_housekeeping_goes_on_while_redis_is_away(redis_server: RedisServer) -> None:
    async with connect_redis(redis_server.url) as redis:
        stop = asyncio.Event()
        running = asyncio.create_task(housekeeping(redis, "adder", interval_s=0.05).run(stop))
        await eventually(lambda: redis.exists(STREAM))
        redis_server.kill()
        redis_server.start()
        redis_server.wait_ready()
        await eventually(lambda: _flushed(redis))
        await eventually(lambda: redis.exists(STREAM))
        stop.set()
        await running
    assert not next(iter(STREAM_LAG.collect())).samples


async def _flushed(redis: Redis) -> bool:
    try:
        await redis.flushall()
    except AWAY:
        return False
    return True


async def _idle_for(redis: Redis, consumer: str, milliseconds: int) -> bool:
    rows = await redis.xinfo_consumers(STREAM, GROUP)
    return any(row["name"] == consumer.encode() and row["idle"] >= milliseconds for row in rows)


async def _pending_is(redis: Redis, count: int) -> bool:
    return await pending(redis, STREAM, GROUP) == count


async def test_the_stream_of_a_version_goes_once_it_is_handled_and_nobody_reads_it(any_redis: Redis) -> None:
    keeper, stream = housekeeping(any_redis, "adder"), task_stream("adder", "2")
    await Publisher(any_redis).publish(stream, requested())
    await keeper.run_round()
    assert await any_redis.xlen(stream) == 1, "nobody has handled it"
    async with consuming(any_redis, stream, acknowledge, group=GROUP):
        await eventually(lambda: nothing_waits(any_redis, stream))
        await keeper.run_round()
        assert await any_redis.exists(stream), "an instance reads it"
    await keeper.run_round()
    await keeper.run_round()
    assert not await any_redis.exists(stream)
    assert await any_redis.exists(STREAM), "that for any version stays"


async def nothing_waits(redis: Redis, stream: str) -> bool:
    states = await load_group_states(redis, stream)
    return bool(states) and all((state.lag, state.pending) == (0, 0) for state in states)
