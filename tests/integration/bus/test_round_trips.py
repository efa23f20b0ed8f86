"""What concurrent work shares on its way to Redis, counted by the server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from flotilla.bus import DONE, Consumer, ConsumerOptions, Delivery, HandlerResult, Publisher, Redis, ensure_group
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import TASK_STREAM_PREFIX
from tests.support.consumers import event
from tests.support.waiting import eventually

GROUP = "g"
ENTRIES = 40
TASKS = f"{TASK_STREAM_PREFIX}counted"


async def _calls(redis: Redis) -> dict[str, int]:
    """How often each command was called since the last CONFIG RESETSTAT."""
    stats = await redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}


async def _consume(redis: Redis, stream: str, handle: Callable[[Delivery], Awaitable[HandlerResult]]) -> None:
    """Handles all entries at once until none is pending."""
    stop = asyncio.Event()
    consumer = Consumer(redis, stream, GROUP, "c", handle, ConsumerOptions(concurrency=ENTRIES, block_ms=100))
    running = asyncio.create_task(consumer.run(stop))
    await eventually(lambda: _is_over(redis, stream))
    stop.set()
    await running


async def _is_over(redis: Redis, stream: str) -> bool:
    (group,) = await redis.xinfo_groups(stream)
    return (group["entries-read"], group["pending"]) == (ENTRIES, 0)


async def _fill(redis: Redis, stream: str) -> None:
    await ensure_group(redis, stream, GROUP)
    publisher = Publisher(redis)
    await asyncio.gather(*(publisher.publish(stream, event(str(n))) for n in range(ENTRIES)))


async def test_entries_that_end_together_are_acknowledged_by_one_command_without_a_transaction(redis: Redis) -> None:
    async def handle(_delivery: Delivery) -> HandlerResult:
        return DONE

    await _fill(redis, "work")
    await redis.config_resetstat()
    await _consume(redis, "work", handle)
    calls = await _calls(redis)
    assert (calls["xack"], calls.get("multi", 0)) == (1, 0)


async def test_answers_that_end_together_share_a_transaction_with_one_acknowledgement(redis: Redis) -> None:
    together = asyncio.Barrier(ENTRIES)

    async def handle(delivery: Delivery) -> HandlerResult:
        await together.wait()
        return HandlerResult([("replies", delivery.event)])

    await _fill(redis, "work")
    await redis.config_resetstat()
    await _consume(redis, "work", handle)
    calls = await _calls(redis)
    assert (calls["xadd"], calls["xack"], calls["multi"]) == (ENTRIES, calls["multi"], calls["exec"])
    assert calls["xack"] <= 2, "the first may travel alone"
    assert await redis.xlen("replies") == ENTRIES


async def test_answer_that_redis_refuses_leaves_the_others_and_their_acknowledgements(redis: Redis) -> None:
    """Its stream is no stream: the entry was acknowledged with the others, as in any transaction of Redis."""
    refused: list[str] = []

    async def handle(delivery: Delivery) -> HandlerResult:
        if delivery.event.subject == "7":
            refused.append(delivery.entry_id)
            return HandlerResult([("text", delivery.event)])
        return HandlerResult([("replies", delivery.event)])

    await redis.set("text", "no stream")
    await _fill(redis, "work")
    await _consume(redis, "work", handle)
    assert await redis.xlen("replies") == ENTRIES - 1
    assert len(refused) == 1


async def test_tasks_that_are_published_together_ask_once_how_long_the_stream_is(redis: Redis) -> None:
    publisher = Publisher(redis)
    await redis.config_resetstat()
    await asyncio.gather(*(publisher.publish(TASKS, event(str(n))) for n in range(ENTRIES)))
    calls = await _calls(redis)
    assert calls["xadd"] == ENTRIES
    assert calls["xlen"] <= 2, "the first may travel alone"


async def test_limit_holds_for_tasks_that_are_published_together(redis: Redis) -> None:
    publisher = Publisher(redis, hard_limit=ENTRIES)
    await asyncio.gather(*(publisher.publish(TASKS, event(str(n))) for n in range(ENTRIES)))
    with pytest.raises(RetryLater, match=f"{ENTRIES} entries"):
        await publisher.publish(TASKS, event("one more"))


async def test_stream_that_is_none_fails_those_who_publish_to_it_and_nobody_else(redis: Redis) -> None:
    publisher = Publisher(redis)
    await redis.set(TASKS, "no stream")
    answers = await asyncio.gather(
        *(publisher.publish(stream, event()) for stream in (TASKS, "news") for _ in range(5)), return_exceptions=True
    )
    assert [isinstance(answer, ResponseError) for answer in answers] == [True] * 5 + [False] * 5
