"""The trap table of `docs/bus.md`, first half: nothing is stranded, nothing is stolen, nothing spins."""

import asyncio
import time
from typing import Any

import pytest

from flotilla.bus import DONE, Delivery, HandlerResult, Publisher, Redis, connect_redis, ensure_group
from flotilla.bus.connection import MAX_READ_BLOCK_MS, SOCKET_TIMEOUT_S, execute_redis_command
from flotilla.bus.consumer import ConsumerOptions
from flotilla.bus.renewal import renew_entries
from flotilla.contracts.errors import RetryLater
from flotilla.runtime.cancellation import cancel_all
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import MIN_IDLE_MS, consumer_process, consuming, event, pending
from tests.support.proxy import Proxy, proxy
from tests.support.waiting import busyness, eventually

OURS = ("xreadgroup", "xautoclaim", "xgroup", "xpending", "xclaim", "eval")


class Seen:
    """A handler that keeps what it saw."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def __call__(self, delivery: Delivery) -> HandlerResult:
        self.subjects.append(delivery.event.subject)
        return DONE


async def publish(redis: Redis, stream: str, *subjects: str, **data: Any) -> list[str]:
    publisher = Publisher(redis)
    return [await publisher.publish(stream, event(subject, **data)) for subject in subjects]


async def deliver_to(redis: Redis, stream: str, consumer: str, count: int) -> None:
    """Has `consumer` read entries that it will never handle."""
    await redis.xreadgroup("g", consumer, {stream: ">"}, count=count)


async def test_unacknowledged_entry_of_a_silent_consumer_is_handled_by_another(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    await publish(any_redis, "s", "orphan")
    await deliver_to(any_redis, "s", "dead", 1)
    seen = Seen()
    async with consuming(any_redis, "s", seen):
        await eventually(lambda: seen.subjects == ["orphan"])
        await eventually(lambda: _none_pending(any_redis))


async def test_claim_loops_its_cursor_past_ten_times_its_count(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    ids = await publish(any_redis, "s", *(f"busy-{n}" for n in range(100)), "orphan")
    await deliver_to(any_redis, "s", "busy", 100)
    await deliver_to(any_redis, "s", "dead", 1)

    async def keep_busy() -> None:
        while True:
            await renew_entries(any_redis, "s", "g", "busy", ids[:100])
            await asyncio.sleep(MIN_IDLE_MS / 4000)

    busy = asyncio.create_task(keep_busy())
    seen = Seen()
    try:
        # One slot: each call looks at ten entries, and the orphan is the hundred-and-first.
        async with consuming(any_redis, "s", seen, concurrency=1):
            await eventually(lambda: seen.subjects == ["orphan"], timeout_s=5)
    finally:
        await cancel_all([busy])


async def test_orphans_are_claimed_as_many_at_a_time_as_there_are_free_slots(any_redis: Redis) -> None:
    release = asyncio.Event()

    async def hold(_: Delivery) -> HandlerResult:
        await release.wait()
        return DONE

    await ensure_group(any_redis, "s", "g")
    await publish(any_redis, "s", *(f"n{n}" for n in range(60)))
    await deliver_to(any_redis, "s", "dead", 60)
    async with consuming(any_redis, "s", hold, concurrency=50) as consumer:
        await eventually(lambda: consumer.in_flight_count == 50)
        assert await pending(any_redis, "s") == 60
        assert await _commands(any_redis, "xautoclaim") < 20
        release.set()
        await eventually(lambda: _none_pending(any_redis, delivered=60))


async def test_consumer_goes_on_after_its_group_was_destroyed(any_redis: Redis) -> None:
    seen = Seen()
    async with consuming(any_redis, "s", seen):
        await publish(any_redis, "s", "before")
        await eventually(lambda: "before" in seen.subjects)
        await any_redis.xgroup_destroy("s", "g")
        await publish(any_redis, "s", "after")
        await eventually(lambda: "after" in seen.subjects)


async def test_consumer_goes_on_after_flushall_and_after_its_key_became_another_type(
    any_redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen()
    async with consuming(any_redis, "s", seen, block_ms=1_000, min_idle_ms=10_000):
        await eventually(lambda: _somebody_waits(any_redis))
        await any_redis.flushall()
        await publish(any_redis, "s", "after-flush")
        await eventually(lambda: "after-flush" in seen.subjects)
        # Whichever way a server says it (Redis 7.0 answers a blocked read UNBLOCKED), it is known for what it is.
        assert "bus_read_refused" not in capsys.readouterr().out
        await any_redis.set("s", "not a stream")
        await eventually(lambda: _still_there(any_redis))
        await any_redis.delete("s")
        await publish(any_redis, "s", "after-type")
        await eventually(lambda: "after-type" in seen.subjects)


async def test_consumer_goes_on_after_redis_was_killed_and_restarted(any_server: RedisServer, any_redis: Redis) -> None:
    seen = Seen()
    async with consuming(any_redis, "s", seen):
        await publish(any_redis, "s", "before")
        await eventually(lambda: "before" in seen.subjects)
        any_server.kill()
        any_server.start()
        any_server.wait_ready()
        await eventually(lambda: _published_after_a_break(any_redis, "after"))
        await eventually(lambda: "after" in seen.subjects)


async def test_answer_that_met_a_broken_connection_is_sent_again(redis: Redis, redis_server: RedisServer) -> None:
    handled = asyncio.Event()
    async with proxy(redis_server.ports["redis"]) as between, connect_redis(between.url) as client:

        async def lose_the_connection(_: Delivery) -> HandlerResult:
            between.deaf = True
            handled.set()
            return HandlerResult([("answers", event("answer"))])

        async with consuming(client, "s", lose_the_connection, min_idle_ms=60_000):
            await publish(redis, "s", "one")
            await handled.wait()
            await eventually(lambda: between.lost)
            between.deaf = False
            await eventually(lambda: _none_pending(redis, delivered=1))
    assert await redis.exists("answers")


async def test_idle_consumer_does_not_spin(redis: Redis) -> None:
    async with consuming(redis, "s", Seen(), block_ms=200):
        await eventually(lambda: _group_exists(redis))
        before = await _commands(redis)
        await asyncio.sleep(1.0)
        assert await _commands(redis) - before < 30


async def test_consumer_does_not_spin_while_its_group_cannot_be_made(redis: Redis) -> None:
    await redis.set("s", "not a stream")
    before = await _commands(redis)
    async with consuming(redis, "s", Seen()):
        await asyncio.sleep(1.0)
    assert await _commands(redis) - before < 40


async def test_takes_no_more_than_it_has_free_slots(redis: Redis) -> None:
    release = asyncio.Event()

    async def hold(_: Delivery) -> HandlerResult:
        await release.wait()
        return DONE

    await publish(redis, "s", *(f"n{n}" for n in range(10)))
    async with consuming(redis, "s", hold, concurrency=3) as consumer:
        await eventually(lambda: consumer.in_flight_count == 3)
        await asyncio.sleep(0.3)
        assert await pending(redis, "s") == 3
        release.set()
        await eventually(lambda: _none_pending(redis, delivered=10))


async def test_work_published_before_any_consumer_existed_is_handled(any_redis: Redis) -> None:
    await publish(any_redis, "s", "early")
    seen = Seen()
    async with consuming(any_redis, "s", seen):
        await eventually(lambda: seen.subjects == ["early"])


async def test_second_consumer_does_not_set_the_group_back(redis: Redis) -> None:
    await publish(redis, "s", "once")
    first, second = Seen(), Seen()
    async with consuming(redis, "s", first, name="c1"):
        await eventually(lambda: first.subjects == ["once"])
        async with consuming(redis, "s", second, name="c2"):
            await publish(redis, "s", "twice")
            await eventually(lambda: len(first.subjects + second.subjects) == 2)
    assert sorted(first.subjects + second.subjects) == ["once", "twice"]


async def test_handler_of_three_min_idle_runs_once(any_redis: Redis) -> None:
    started: list[str] = []

    async def slow(delivery: Delivery) -> HandlerResult:
        started.append(delivery.event.subject)
        await asyncio.sleep(3 * MIN_IDLE_MS / 1000)
        return DONE

    await publish(any_redis, "s", "slow")
    async with consuming(any_redis, "s", slow, name="c1"), consuming(any_redis, "s", slow, name="c2"):
        await eventually(lambda: started == ["slow"])
        await eventually(lambda: _none_pending(any_redis))
    assert started == ["slow"]


async def test_renewal_does_not_steal_back_what_another_consumer_took(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    mine, taken = await publish(any_redis, "s", "mine", "taken")
    await deliver_to(any_redis, "s", "me", 2)
    await any_redis.xclaim("s", "g", "other", 0, [taken])
    assert await renew_entries(any_redis, "s", "g", "me", [mine, taken]) == {taken}
    rows = await any_redis.xpending_range("s", "g", "-", "+", 10)
    assert [row["consumer"] for row in rows] == [b"me", b"other"]


async def test_renewal_lets_go_of_what_another_consumer_finished(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    (finished,) = await publish(any_redis, "s", "finished")
    await deliver_to(any_redis, "s", "me", 1)
    await any_redis.xack("s", "g", finished)
    assert await renew_entries(any_redis, "s", "g", "me", [finished]) == {finished}


async def test_renewal_keeps_what_only_a_lost_group_knew(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    (entry_id,) = await publish(any_redis, "s", "mine")
    await deliver_to(any_redis, "s", "me", 1)
    await any_redis.flushall()
    await ensure_group(any_redis, "s", "g")
    await eventually(lambda: _is_past(any_redis, entry_id))
    await publish(any_redis, "s", "newer")
    await deliver_to(any_redis, "s", "other", 1)
    assert await renew_entries(any_redis, "s", "g", "me", [entry_id]) == set()


async def _is_past(redis: Redis, entry_id: str) -> bool:
    """Whether its millisecond is over: within it, a stream that starts again returns the same id again."""
    seconds, microseconds = await redis.time()
    return seconds * 1000 + microseconds // 1000 > int(entry_id.split("-", maxsplit=1)[0])


async def test_renewal_does_not_count_as_a_delivery(any_redis: Redis) -> None:
    await ensure_group(any_redis, "s", "g")
    (entry_id,) = await publish(any_redis, "s", "mine")
    await deliver_to(any_redis, "s", "me", 1)
    for _ in range(3):
        await renew_entries(any_redis, "s", "g", "me", [entry_id])
    (row,) = await any_redis.xpending_range("s", "g", "-", "+", 10)
    assert row["times_delivered"] == 1


async def test_paused_consumer_that_wakes_lets_go_of_what_was_taken_over(redis: Redis, redis_url: str) -> None:
    what = {"url": redis_url, "stream": "s", "group": "g", "min_idle_ms": MIN_IDLE_MS}
    await publish(redis, "s", "task", hang_on="paused")
    with consumer_process(name="paused", **what) as paused:
        await eventually(lambda: redis.exists("started:task"))
        paused.pause()
        with consumer_process(name="other", **what):
            await eventually(lambda: redis.exists("ended:task"))
            paused.resume()
            await publish(redis, "s", "next", hang_on="nobody", sleep_s=0)
            await eventually(lambda: redis.exists("ended:next"))
            await eventually(lambda: _none_pending(redis, delivered=2))
        # The woken consumer gave up its hanging handler: it has nothing in hand and stops at once.
        assert paused.terminate(timeout_s=30) == 0
    assert await redis.lrange("ended:task", 0, -1) == [b"other"]


async def test_entry_of_a_killed_consumer_is_handled_within_min_idle_and_five_seconds(
    any_redis: Redis, any_server: RedisServer
) -> None:
    what = {"url": any_server.url, "stream": "s", "group": "g", "min_idle_ms": 1_000}
    await publish(any_redis, "s", "task", hang_on="victim")
    with consumer_process(name="victim", **what) as victim, consumer_process(name="other", **what):
        await eventually(lambda: any_redis.exists("started:task"))
        if await any_redis.exists("ended:task"):
            return  # `other` was quicker: nothing hung
        victim.kill()
        killed = time.monotonic()
        await eventually(lambda: any_redis.exists("ended:task"))
        assert time.monotonic() - killed < 6.0 * busyness()


async def test_publish_is_never_repeated_behind_the_callers_back(redis: Redis, redis_server: RedisServer) -> None:
    async with proxy(redis_server.ports["redis"]) as between, connect_redis(between.url) as client:
        await client.ping()
        between.lose_next = True
        with pytest.raises(Exception, match="may or may not have"):
            await Publisher(client).publish("s", event("once"))
        assert between.lost
    assert await redis.xlen("s") == 1


async def test_entries_stranded_by_a_lost_answer_are_claimed_by_their_own_consumer(
    redis: Redis, redis_server: RedisServer
) -> None:
    seen = Seen()
    async with (
        proxy(redis_server.ports["redis"]) as between,
        connect_redis(between.url) as client,
        consuming(client, "s", seen, block_ms=2_000),
    ):
        stranded = await _strand_one(redis, between)
        await eventually(lambda: stranded in seen.subjects)


def test_block_is_always_shorter_than_the_socket_timeout() -> None:
    assert MAX_READ_BLOCK_MS / 1000 < SOCKET_TIMEOUT_S / 2
    with pytest.raises(ValueError, match="block_ms"):
        ConsumerOptions(block_ms=MAX_READ_BLOCK_MS + 1)


async def test_stop_finishes_what_is_in_hand_and_leaves_the_rest_pending(redis: Redis) -> None:
    ended: list[str] = []

    async def work(delivery: Delivery) -> HandlerResult:
        if delivery.event.subject == "endless":
            await asyncio.Event().wait()
        await asyncio.sleep(0.3)
        ended.append(delivery.event.subject)
        return DONE

    await publish(redis, "s", "endless", "short")
    async with consuming(redis, "s", work, grace_s=0.6) as consumer:
        await eventually(lambda: consumer.in_flight_count == 2)
    assert ended == ["short"]
    assert await pending(redis, "s") == 1


async def test_stopped_consumer_with_nothing_pending_leaves_the_group(redis: Redis) -> None:
    async with consuming(redis, "s", Seen()):
        await publish(redis, "s", "one")
        await eventually(lambda: _none_pending(redis, delivered=1))
    assert await redis.xinfo_consumers("s", "g") == []


async def _strand_one(redis: Redis, between: Proxy) -> str:
    """Loses the answer that delivers an entry; returns the entry's subject."""
    for n in range(20):
        await eventually(lambda: _somebody_waits(redis))
        lost = between.lost
        between.deaf = True
        await publish(redis, "s", f"n{n}")
        await eventually(lambda: between.lost > lost)  # noqa: B023 - awaited here
        between.deaf = False
        if await pending(redis, "s"):
            return f"n{n}"
    raise AssertionError("no answer with an entry in it was lost")


async def _none_pending(redis: Redis, delivered: int = 0) -> bool:
    groups = await redis.xinfo_groups("s")
    return bool(groups) and groups[0]["pending"] == 0 and (groups[0].get("entries-read") or 0) >= delivered


async def _published_after_a_break(redis: Redis, subject: str) -> bool:
    try:
        await publish(redis, "s", subject)
    except RetryLater:
        return False
    return True


async def _group_exists(redis: Redis) -> bool:
    return bool(await redis.exists("s")) and bool(await redis.xinfo_groups("s"))


async def _somebody_waits(redis: Redis) -> bool:
    clients: dict[str, int] = await execute_redis_command(redis, "INFO", "clients")
    return clients["blocked_clients"] > 0


async def _still_there(redis: Redis) -> bool:
    await asyncio.sleep(0.3)
    return await redis.get("s") == b"not a stream"


async def _commands(redis: Redis, *ours: str) -> int:
    stats: dict[str, dict[str, int]] = await execute_redis_command(redis, "INFO", "commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if name.removeprefix("cmdstat_").startswith(ours or OURS))
