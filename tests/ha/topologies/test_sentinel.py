"""Redis Sentinel: the primary is found, and followed when it changes."""

import asyncio
from collections.abc import Iterator

import pytest
from redis.exceptions import RedisError

from flotilla.bus import AWAY, DONE, Delivery, HandlerResult, Publisher, check_redis, connect_redis
from flotilla.bus.announcements import announcement_broker
from flotilla.bus.connection import Redis
from flotilla.contracts.errors import RetryLater
from flotilla_devstack import RunningStack
from tests.ha.topologies.sentinel import PRIMARY, Watched, watched_redis
from tests.support.consumers import consuming, event
from tests.support.waiting import eventually


@pytest.fixture
def watched(stack: RunningStack) -> Iterator[Watched]:
    with watched_redis(stack) as running:
        yield running


async def port_of(client: Redis) -> int:
    return int((await client.info("server"))["tcp_port"])


async def writes(client: Redis) -> bool:
    try:
        await client.set("k", 1)
    except AWAY:
        return False
    return True


async def writes_elsewhere(client: Redis, port: int) -> bool:
    """Without anybody's look at readiness: Sentinel demotes the old primary up to 20 s after a switchover."""
    return await writes(client) and await port_of(client) != port


async def test_a_switchover_with_everything_alive_is_followed(watched: Watched) -> None:
    async with connect_redis(watched.url) as client:
        await asyncio.gather(*(client.set(f"k{number}", 1) for number in range(8)))
        await check_redis(client)
        first = await port_of(client)
        await asyncio.to_thread(watched.switch_over)
        await eventually(lambda: writes_elsewhere(client, first), timeout_s=5)
        await asyncio.gather(*(client.set(f"k{number}", 2) for number in range(8)))
        await check_redis(client)


async def test_a_primary_that_dies_or_freezes_is_left_for_the_one_the_sentinels_name(watched: Watched) -> None:
    async with connect_redis(watched.url) as client:
        await client.set("k", 1)
        old = watched.primary
        old.pause()
        await asyncio.to_thread(watched.wait_for_another_than, old)
        await eventually(lambda: writes_elsewhere(client, old.ports["redis"]), timeout_s=15)
        old.resume()
        await eventually(lambda: writes(client))


async def test_a_consumer_goes_on_with_the_new_primary(watched: Watched) -> None:
    seen: list[str] = []

    async def note(delivery: Delivery) -> HandlerResult:
        seen.append(delivery.event.subject)
        return DONE

    async with connect_redis(watched.url) as client, consuming(client, "s", note):
        await Publisher(client).publish("s", event("before"))
        await eventually(lambda: "before" in seen)
        old = watched.primary.ports["redis"]
        await asyncio.to_thread(watched.switch_over)
        await eventually(lambda: writes_elsewhere(client, old), timeout_s=10)
        await Publisher(client).publish("s", event("after"))
        await eventually(lambda: "after" in seen, timeout_s=20)


async def test_sentinels_that_are_away_are_passed_over_and_the_open_connections_go_on(watched: Watched) -> None:
    watched.sentinels[0].kill()
    async with connect_redis(watched.url) as client:
        await check_redis(client)
        for sentinel in watched.sentinels[1:]:
            sentinel.pause()
        await check_redis(client)
        await client.connection_pool.disconnect()
        with pytest.raises(RetryLater, match="no sentinel leads to a primary"):
            await check_redis(client)
        for sentinel in watched.sentinels[1:]:
            sentinel.resume()
        await check_redis(client)


async def test_a_primary_that_the_sentinels_no_longer_name_is_left_at_work(watched: Watched) -> None:
    """As one that was cut off from them: it goes on answering and taking writes."""
    async with connect_redis(watched.url) as client:
        await client.set("k", 1)
        old = watched.primary
        await asyncio.to_thread(watched.watch_the_other_instead)
        await eventually(lambda: writes_elsewhere(client, old.ports["redis"]), timeout_s=5)
        await check_redis(client)


async def test_announcements_follow_too(watched: Watched) -> None:
    async def ignore(_: object) -> None:
        """Nothing is announced here."""

    broker = announcement_broker(watched.url, ignore)
    await broker.start()
    assert await broker.ping(timeout=5)
    await broker.stop()


async def test_sentinels_with_a_password(stack: RunningStack) -> None:
    with watched_redis(stack, "of-the-sentinels") as watched:
        async with connect_redis(watched.url) as client:
            await check_redis(client)
        async with connect_redis(watched.url.partition("?")[0]) as client:
            with pytest.raises(RetryLater, match="check sentinel_username and sentinel_password"):
                await check_redis(client)


async def test_what_leads_to_no_primary_is_named(watched: Watched) -> None:
    for url, reason in (
        (watched.url.replace(PRIMARY, "other"), f"watches no primary named other, only: {PRIMARY}"),
        (f"redis+sentinel://127.0.0.1:{watched.primary.ports['redis']}/{PRIMARY}", "it is no sentinel"),
        (f"redis://127.0.0.1:{watched.sentinels[0].ports['sentinel']}/0", r"this is a sentinel.*redis\+sentinel://"),
    ):
        async with connect_redis(url) as client:
            with pytest.raises((RetryLater, RedisError), match=reason):
                await check_redis(client)
