"""The trap table of `docs/bus.md`: how entries that can't be handled end."""

import json
from dataclasses import replace
from typing import Any

import pytest

from flotilla.bus import DONE, Delivery, HandlerResult, Publisher, Redis, dead_letter_store
from flotilla.bus.connection import execute_redis_command
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.contracts import AgentEvent
from flotilla.contracts.envelope import encode_event, from_builtins
from flotilla.contracts.errors import Conflict, DeadLetter, NotFound, Oversize, RetryLater, UnknownType
from flotilla.contracts.names import DEAD_LETTERS_STREAM, reply_stream
from flotilla.contracts.tasks import Failure
from flotilla.postgres import Pool, tenant_transaction
from tests.support.agents import delegate, sealed, task
from tests.support.consumers import consuming, entries, event
from tests.support.redriving import redriving
from tests.support.traps import GROUP, STREAM, acknowledge, handled, raw, requested
from tests.support.waiting import eventually

REPLIES = reply_stream("adder")


async def never(_: Delivery) -> HandlerResult:
    raise UnknownType("version 2")


async def test_undecodable_entry_is_a_dead_letter_after_five_deliveries(redis: Redis, pool: Pool) -> None:
    entry_id = await execute_redis_command(redis, "XADD", STREAM, "*", "event", b"\xff not json", "other", b"\x00\x01")
    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, STREAM, acknowledge, group=GROUP, dead_letters=letters, min_idle_ms=100):
        (kept,) = await eventually(lambda: letters.list_dead_letters("default"))
        await eventually(lambda: handled(redis))
    assert (kept.stream, kept.group, kept.entry_id, kept.attempts) == (STREAM, GROUP, entry_id.decode(), 5)
    assert kept.reason == "undecodable"
    shown = await letters.get_dead_letter("default", kept.dead_letter_id)
    assert shown.body == "\\xff not json"
    assert shown.fields["other"] == "\x00\x01"


async def test_one_bad_entry_does_not_strand_its_batch(redis: Redis, pool: Pool) -> None:
    seen: list[str] = []

    async def handle(delivery: Delivery) -> HandlerResult:
        seen.append(delivery.event.subject)
        return DONE

    async with redis.pipeline() as batch:
        for n in range(20):
            batch.xadd(STREAM, {"event": b"{" if n % 5 == 0 else encode_event(event(f"n{n}"))})
        await batch.execute()
    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, STREAM, handle, group=GROUP, dead_letters=letters, min_idle_ms=100):
        await eventually(lambda: len(seen) == 16)
        await eventually(lambda: handled(redis))
    assert len(set(seen)) == 16
    assert len(await letters.list_dead_letters("default")) == 4


async def test_entry_without_an_answer_is_a_dead_letter_after_max_deliveries(redis: Redis, pool: Pool) -> None:
    runs = 0

    async def break_down(_: Delivery) -> HandlerResult:
        nonlocal runs
        runs += 1
        raise RuntimeError("no answer")

    await Publisher(redis).publish(STREAM, requested())
    letters = PostgresDeadLetterStore(pool)
    async with consuming(
        redis, STREAM, break_down, group=GROUP, dead_letters=letters, min_idle_ms=60, max_deliveries=3
    ):
        (kept,) = await eventually(lambda: letters.list_dead_letters("default"))
    assert (kept.reason, kept.task_id, runs) == ("no_answer", "t1", 3)
    assert kept.error == "no answer after 3 deliveries, the last: RuntimeError: no answer"


async def test_twenty_deliveries_without_an_answer_are_allowed_by_default(redis: Redis) -> None:
    deliveries: list[int] = []

    async def break_down(delivery: Delivery) -> HandlerResult:
        deliveries.append(delivery.deliveries)
        raise RuntimeError("no answer")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, break_down, group=GROUP, min_idle_ms=20):
        await eventually(lambda: redis.exists(REPLIES), timeout_s=20)
    assert deliveries == list(range(1, 21))


async def test_entry_whose_dependency_was_away_is_innocent_however_long_it_took(redis: Redis) -> None:
    deliveries: list[int] = []

    async def wait_for_database(delivery: Delivery) -> HandlerResult:
        deliveries.append(delivery.deliveries)
        if len(deliveries) < 8:
            raise RetryLater("PostgreSQL is unavailable")
        return DONE

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, wait_for_database, group=GROUP, min_idle_ms=100, max_deliveries=2):
        await eventually(lambda: handled(redis))
    assert max(deliveries) <= 2
    assert not await redis.exists(REPLIES)


async def test_dead_lettered_task_fails_the_caller_that_waits_for_it(redis: Redis, pool: Pool) -> None:
    await delegate(pool, task(agent="adder"))
    await Publisher(redis).publish(STREAM, requested())
    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        await eventually(lambda: redis.exists(REPLIES))
    announced, reply = await entries(redis, REPLIES)
    assert reply["data"]["status"] == "failed"
    expected = Failure(type="DeadLetter", message="unknown_type: version 2", retryable=False)
    assert from_builtins(reply["data"]["failure"], Failure) == expected
    assert announced["data"]["dead_letter_id"]
    assert not await redis.exists(DEAD_LETTERS_STREAM)  # the bridge passes it on
    async with tenant_transaction(pool, "default") as connection:
        assert await connection.fetchval("SELECT status FROM flotilla.agent_tasks") == "dead_lettered"


async def test_refused_entry_is_a_dead_letter_at_once(redis: Redis) -> None:
    async def refuse(_: Delivery) -> HandlerResult:
        raise DeadLetter("for another agent")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, refuse, group=GROUP, min_idle_ms=60_000):
        await eventually(lambda: redis.exists(REPLIES))
    announced, _ = await entries(redis, REPLIES)
    assert (announced["data"]["reason"], announced["data"]["attempts"]) == ("refused", 1)
    assert json.loads(announced["data"]["body"])["data"]["task_id"] == "t1"


async def test_what_is_too_large_to_publish_fails_the_caller_that_waits_at_the_first_delivery(redis: Redis) -> None:
    async def answer(_: Delivery) -> HandlerResult:
        return HandlerResult([(REPLIES, event(text="x" * 1_100_000))])

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, answer, group=GROUP, min_idle_ms=60_000):
        await eventually(lambda: redis.exists(REPLIES))
    announced, reply = await entries(redis, REPLIES)
    assert announced["data"]["attempts"] == 1
    assert "1000000 are allowed" in reply["data"]["failure"]["message"]


HUGE = "x" * 990_000
DATA = [{"data": {"task_id": HUGE}}, {"data": {"task_id": "t", "agent": "adder", "attempt": 2**60}}]
NAMES = [{"subject": HUGE}, {"tenant": HUGE}, {"taskid": HUGE}, {"runid": HUGE}, {"type": HUGE}, {"traceparent": HUGE}]


@pytest.mark.parametrize("durable", [True, False], ids=["in PostgreSQL", "on the stream"])
@pytest.mark.parametrize("names", [*NAMES, *DATA], ids=lambda names: str(names)[:20])
async def test_an_entry_with_a_name_of_any_length_is_buried(
    redis: Redis, pool: Pool, names: dict[str, Any], durable: bool
) -> None:
    async def refuse(_: Delivery) -> HandlerResult:
        raise UnknownType(f"odd: {HUGE}")

    written = {"specversion": "1.0", "id": "1", "source": "/s", "time": "2030-01-01T12:00:00Z"}
    body = json.dumps({**written, "type": "t", "subject": "s", "data": {}, **names})
    await execute_redis_command(redis, "XADD", STREAM, "*", "event", body)
    letters = PostgresDeadLetterStore(pool) if durable else None
    async with consuming(redis, STREAM, refuse, group=GROUP, dead_letters=letters, min_idle_ms=20):
        await eventually(lambda: redis.exists(REPLIES))
        await eventually(lambda: handled(redis))


async def test_replies_that_nobody_can_use_leave_a_bounded_number_of_dead_letters(
    redis: Redis, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Delivery) -> HandlerResult:
        raise DeadLetter("forged")

    monkeypatch.setattr(dead_letter_store, "MAX_OPEN_FROM_REPLIES", 5)
    for number in range(20):
        await Publisher(redis).publish(REPLIES, replace(event(f"s{number}"), tenant=f"tenant-{number}"))
    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, REPLIES, refuse, group=GROUP, dead_letters=letters, min_idle_ms=60_000, concurrency=1):
        await eventually(lambda: handled(redis, REPLIES))
    kept = [await letters.list_dead_letters(f"tenant-{number}") for number in range(20)]
    assert [len(found) for found in kept] == [1] * 5 + [0] * 15
    (first,) = kept[0]
    await letters.discard_dead_letter("tenant-0", first.dead_letter_id)
    await Publisher(redis).publish(REPLIES, replace(event("s20"), tenant="tenant-20"))
    async with consuming(redis, REPLIES, refuse, group=GROUP, dead_letters=letters, min_idle_ms=60_000):
        await eventually(lambda: letters.list_dead_letters("tenant-20"))


async def test_dead_letter_stays_pending_while_its_store_is_away(redis: Redis, pool: Pool) -> None:
    kept = 0
    durable = PostgresDeadLetterStore(pool)

    class AwayAtFirst:
        async def keep(self, lost: Any) -> list[tuple[str, AgentEvent]]:
            nonlocal kept
            kept += 1
            if kept < 3:
                raise RetryLater("PostgreSQL is unavailable")
            return await durable.keep(lost)

    async def refuse(_: Delivery) -> HandlerResult:
        raise DeadLetter("no")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, refuse, group=GROUP, dead_letters=AwayAtFirst(), min_idle_ms=60):
        await eventually(lambda: durable.list_dead_letters("default"))
        await eventually(lambda: handled(redis))


async def test_redrive_publishes_the_same_bytes_and_only_once(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetterStore(pool)
    await delegate(pool, task(agent="adder"))
    await Publisher(redis).publish(STREAM, sealed(task(agent="adder")))
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list_dead_letters("default"))
    (before,) = await raw(redis)
    async with redriving(redis, pool):
        await letters.request_redrive(redis, "default", kept.dead_letter_id)
        _, again = await eventually(lambda: both(redis))
        with pytest.raises(Conflict, match="was redriven"):
            await letters.request_redrive(redis, "default", kept.dead_letter_id)
    assert again[1] == before[1]
    assert await redis.xlen(STREAM) == 2
    assert await letters.list_dead_letters("default") == []
    async with tenant_transaction(pool, "default") as connection:
        assert await connection.fetchval("SELECT status FROM flotilla.agent_tasks") == "queued"


async def both(redis: Redis) -> Any:
    found = await raw(redis)
    return found if len(found) == 2 else None


async def test_redriven_entry_that_fails_again_is_a_new_dead_letter(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetterStore(pool)
    await Publisher(redis).publish(STREAM, requested())
    async with (
        redriving(redis, pool),
        consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60),
    ):
        (first,) = await eventually(lambda: letters.list_dead_letters("default"))
        assert await letters.request_stream_redrive(redis, "default", STREAM) == 1
        (second,) = await eventually(lambda: letters.list_dead_letters("default"))
    assert first.entry_id != second.entry_id
    assert len(await letters.list_dead_letters("default", closed_too=True)) == 2


async def test_discarded_dead_letter_is_closed_for_good(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetterStore(pool)
    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list_dead_letters("default"))
    assert await letters.count_open_by_stream() == {STREAM: 1}
    await letters.discard_dead_letter("default", kept.dead_letter_id)
    assert await letters.count_open_by_stream() == {}
    with pytest.raises(Conflict, match="was discarded"):
        await letters.request_redrive(redis, "default", kept.dead_letter_id)


async def test_dead_letters_belong_to_the_tenant_that_they_name_or_to_the_operator(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetterStore(pool, operator_tenant="operator")
    await Publisher(redis).publish(STREAM, requested("of-acme", tenant="acme"))
    await execute_redis_command(redis, "XADD", STREAM, "*", "event", b"{")
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (acme,) = await eventually(lambda: letters.list_dead_letters("acme"))
        (nameless,) = await eventually(lambda: letters.list_dead_letters("operator"))
    assert (acme.task_id, nameless.task_id) == ("of-acme", None)
    with pytest.raises(NotFound):
        await letters.get_dead_letter("operator", acme.dead_letter_id)


async def test_poisoned_text_does_not_keep_an_entry_out_of_the_dead_letters(redis: Redis, pool: Pool) -> None:
    body = '{"specversion":"1.0","id":"1","source":"/x","type":"t\\u0000","subject":"s","time":"2026-01-01T00:00:00Z",'
    body += '"data":{"task_id":"a\\u0000b","agent":"\\u0000","tenant_id":"\\u0000","session_id":"\\u0000"}}'
    await execute_redis_command(redis, "XADD", STREAM, "*", "event", body)
    letters = PostgresDeadLetterStore(pool)
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list_dead_letters("\ufffd"))
    assert kept.task_id == "a\ufffdb"


async def test_oversize_event_is_refused_where_it_is_made(redis: Redis) -> None:
    with pytest.raises(Oversize, match="1000000 are allowed"):
        await Publisher(redis).publish(STREAM, event(text="x" * 1_000_000))
