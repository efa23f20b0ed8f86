"""The trap table of `docs/bus.md`, second half: dead letters, trimming, groups after a loss, names of old pods."""

import asyncio
import json
from typing import Any

import pytest

from flotilla.bus import (
    AWAY,
    DONE,
    Delivery,
    Finish,
    Housekeeping,
    Publisher,
    Redis,
    connect_redis,
    ensure_group,
    entry_exists,
)
from flotilla.bus.channels import EVENTS_MAXLEN
from flotilla.bus.connection import ask
from flotilla.bus.dead_letter_store import PostgresDeadLetters
from flotilla.bus.groups import retire_consumer
from flotilla.bus.housekeeping import group_states
from flotilla.contracts import AgentEvent, AgentTask
from flotilla.contracts.envelope import encode_event, from_builtins, to_builtins
from flotilla.contracts.errors import Conflict, DeadLetter, NotFound, Oversize, RetryLater, UnknownType
from flotilla.contracts.names import DEAD_LETTERS_STREAM, EVENTS_STREAM, REPLIES_STREAM, task_stream
from flotilla.contracts.tasks import TASK_REQUESTED, Failure, ReplyAddress
from flotilla.postgres import Pool, tenant_transaction
from flotilla.telemetry.metrics import STREAM_LAG, STREAM_PENDING
from flotilla_devstack.servers.redis import RedisServer
from tests.support.consumers import consuming, entries, event, pending
from tests.support.waiting import eventually

STREAM = task_stream("adder")
GROUP = "adder-agents"
REPLY_TO = ReplyAddress(workflow_id="run-1", workflow_run_id="r", activity_id="t1")

_FILL = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'event', '{}') end"


def requested(task_id: str = "t1", tenant: str = "default") -> AgentEvent:
    task = AgentTask(
        task_id=task_id, agent="adder", tenant_id=tenant, session_id="s1", input={"a": 1}, reply_to=REPLY_TO
    )
    return AgentEvent(type=TASK_REQUESTED, source="/tests", subject="s1", data=to_builtins(task), taskid=task_id)


async def never(_: Delivery) -> Finish:
    raise UnknownType("version 2")


async def acknowledge(_: Delivery) -> Finish:
    return DONE


def housekeeping(redis: Redis, *agents: str, **options: Any) -> Housekeeping:
    async def registered() -> list[str]:
        return list(agents)

    return Housekeeping(redis, registered, **options)


async def test_undecodable_entry_is_a_dead_letter_after_five_deliveries(redis: Redis, pool: Pool) -> None:
    entry_id = await ask(redis, "XADD", STREAM, "*", "event", b"\xff not json", "other", b"\x00\x01")
    letters = PostgresDeadLetters(pool)
    async with consuming(redis, STREAM, acknowledge, group=GROUP, dead_letters=letters, min_idle_ms=100):
        (kept,) = await eventually(lambda: letters.list("default"))
        await eventually(lambda: _handled(redis))
    assert (kept.stream, kept.group, kept.entry_id, kept.attempts) == (STREAM, GROUP, entry_id.decode(), 5)
    assert kept.reason == "undecodable"
    shown = await letters.get("default", kept.dead_letter_id)
    assert shown.body == "\\xff not json"
    assert shown.fields["other"] == "\x00\x01"


async def test_one_bad_entry_does_not_strand_its_batch(redis: Redis, pool: Pool) -> None:
    seen: list[str] = []

    async def handle(delivery: Delivery) -> Finish:
        seen.append(delivery.event.subject)
        return DONE

    async with redis.pipeline() as batch:
        for n in range(20):
            batch.xadd(STREAM, {"event": b"{" if n % 5 == 0 else encode_event(event(f"n{n}"))})
        await batch.execute()
    letters = PostgresDeadLetters(pool)
    async with consuming(redis, STREAM, handle, group=GROUP, dead_letters=letters, min_idle_ms=100):
        await eventually(lambda: len(seen) == 16)
        await eventually(lambda: _handled(redis))
    assert len(set(seen)) == 16
    assert len(await letters.list("default")) == 4


async def test_entry_without_an_answer_is_a_dead_letter_after_max_deliveries(redis: Redis, pool: Pool) -> None:
    runs = 0

    async def break_down(_: Delivery) -> Finish:
        nonlocal runs
        runs += 1
        raise RuntimeError("no answer")

    await Publisher(redis).publish(STREAM, requested())
    letters = PostgresDeadLetters(pool)
    async with consuming(
        redis, STREAM, break_down, group=GROUP, dead_letters=letters, min_idle_ms=60, max_deliveries=3
    ):
        (kept,) = await eventually(lambda: letters.list("default"))
    assert (kept.reason, kept.task_id, runs) == ("no_answer", "t1", 3)


async def test_twenty_deliveries_without_an_answer_are_allowed_by_default(redis: Redis) -> None:
    deliveries: list[int] = []

    async def break_down(delivery: Delivery) -> Finish:
        deliveries.append(delivery.deliveries)
        raise RuntimeError("no answer")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, break_down, group=GROUP, min_idle_ms=20):
        await eventually(lambda: redis.exists(DEAD_LETTERS_STREAM), timeout_s=20)
    assert deliveries == list(range(1, 21))


async def test_entry_whose_dependency_was_away_is_innocent_however_long_it_took(redis: Redis) -> None:
    deliveries: list[int] = []

    async def wait_for_database(delivery: Delivery) -> Finish:
        deliveries.append(delivery.deliveries)
        if len(deliveries) < 8:
            raise RetryLater("PostgreSQL is away")
        return DONE

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, wait_for_database, group=GROUP, min_idle_ms=100, max_deliveries=2):
        await eventually(lambda: _handled(redis))
    assert max(deliveries) <= 2
    assert not await redis.exists(DEAD_LETTERS_STREAM)


async def test_dead_lettered_task_fails_whoever_waits_for_it(redis: Redis, pool: Pool) -> None:
    await Publisher(redis).publish(STREAM, requested())
    letters = PostgresDeadLetters(pool)
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        await eventually(lambda: redis.exists(REPLIES_STREAM))
    (reply,) = await entries(redis, REPLIES_STREAM)
    assert reply["data"]["reply_to"] == to_builtins(REPLY_TO)
    assert reply["data"]["status"] == "failed"
    expected = Failure(type="DeadLetter", message="unknown_type: version 2", retryable=False)
    assert from_builtins(reply["data"]["failure"], Failure) == expected
    (announced,) = await entries(redis, DEAD_LETTERS_STREAM)
    assert announced["data"]["dead_letter_id"]
    async with tenant_transaction(pool, "default") as connection:
        assert await connection.fetchval("SELECT status FROM flotilla.agent_tasks") == "dead_lettered"


async def test_refused_entry_is_a_dead_letter_at_once(redis: Redis) -> None:
    async def refuse(_: Delivery) -> Finish:
        raise DeadLetter("for another agent")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, refuse, group=GROUP, min_idle_ms=60_000):
        await eventually(lambda: redis.exists(DEAD_LETTERS_STREAM))
    (announced,) = await entries(redis, DEAD_LETTERS_STREAM)
    assert (announced["data"]["reason"], announced["data"]["attempts"]) == ("refused", 1)
    assert json.loads(announced["data"]["body"])["data"]["task_id"] == "t1"


async def test_dead_letter_stays_pending_while_its_store_is_away(redis: Redis, pool: Pool) -> None:
    kept = 0
    durable = PostgresDeadLetters(pool)

    class AwayAtFirst:
        async def keep(self, lost: Any) -> list[tuple[str, AgentEvent]]:
            nonlocal kept
            kept += 1
            if kept < 3:
                raise RetryLater("PostgreSQL is away")
            return await durable.keep(lost)

    async def refuse(_: Delivery) -> Finish:
        raise DeadLetter("no")

    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, refuse, group=GROUP, dead_letters=AwayAtFirst(), min_idle_ms=60):
        await eventually(lambda: durable.list("default"))
        await eventually(lambda: _handled(redis))


async def test_redrive_publishes_the_same_bytes_and_only_once(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetters(pool)
    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list("default"))
    (before,) = await _raw(redis)
    entry_id = await letters.redrive(redis, "default", kept.dead_letter_id)
    (again,) = await _raw(redis, entry_id)
    assert again[1] == before[1]
    with pytest.raises(Conflict, match="was redriven"):
        await letters.redrive(redis, "default", kept.dead_letter_id)
    assert await redis.xlen(STREAM) == 2
    assert await letters.list("default") == []
    async with tenant_transaction(pool, "default") as connection:
        assert await connection.fetchval("SELECT status FROM flotilla.agent_tasks") == "queued"


async def test_redriven_entry_that_fails_again_is_a_new_dead_letter(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetters(pool)
    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (first,) = await eventually(lambda: letters.list("default"))
        assert await letters.redrive_stream(redis, "default", STREAM) == 1
        (second,) = await eventually(lambda: letters.list("default"))
    assert first.entry_id != second.entry_id
    assert len(await letters.list("default", closed_too=True)) == 2


async def test_discarded_dead_letter_is_closed_for_good(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetters(pool)
    await Publisher(redis).publish(STREAM, requested())
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list("default"))
    assert await letters.counts() == {STREAM: 1}
    await letters.discard("default", kept.dead_letter_id)
    assert await letters.counts() == {}
    with pytest.raises(Conflict, match="was discarded"):
        await letters.redrive(redis, "default", kept.dead_letter_id)


async def test_dead_letters_belong_to_the_tenant_that_they_name_or_to_the_operator(redis: Redis, pool: Pool) -> None:
    letters = PostgresDeadLetters(pool, operator_tenant="operator")
    await Publisher(redis).publish(STREAM, requested("of-acme", tenant="acme"))
    await ask(redis, "XADD", STREAM, "*", "event", b"{")
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (acme,) = await eventually(lambda: letters.list("acme"))
        (nameless,) = await eventually(lambda: letters.list("operator"))
    assert (acme.task_id, nameless.task_id) == ("of-acme", None)
    with pytest.raises(NotFound):
        await letters.get("operator", acme.dead_letter_id)


async def test_poisoned_text_does_not_keep_an_entry_out_of_the_dead_letters(redis: Redis, pool: Pool) -> None:
    body = '{"specversion":"1.0","id":"1","source":"/x","type":"t\\u0000","subject":"s","time":"2026-01-01T00:00:00Z",'
    body += '"data":{"task_id":"a\\u0000b","agent":"\\u0000","tenant_id":"\\u0000","session_id":"\\u0000"}}'
    await ask(redis, "XADD", STREAM, "*", "event", body)
    letters = PostgresDeadLetters(pool)
    async with consuming(redis, STREAM, never, group=GROUP, dead_letters=letters, min_idle_ms=60):
        (kept,) = await eventually(lambda: letters.list("\ufffd"))
    assert kept.task_id == "a\ufffdb"


async def test_oversize_event_is_refused_where_it_is_made(redis: Redis) -> None:
    with pytest.raises(Oversize, match="1000000 are allowed"):
        await Publisher(redis).publish(STREAM, event(text="x" * 1_000_000))


async def test_housekeeping_makes_the_groups_of_agents_at_zero_replicas_again(any_redis: Redis) -> None:
    await any_redis.flushall()
    await housekeeping(any_redis, "adder").go_round()
    await Publisher(any_redis).publish(STREAM, requested())
    (state,) = await group_states(any_redis, STREAM)
    assert (state.group, state.lag, state.pending) == (GROUP, 1, 0)
    assert [state.group for state in await group_states(any_redis, REPLIES_STREAM)] == ["workflow-bridge"]


async def test_trimming_keeps_everything_that_is_not_handled(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    ids = [await publisher.publish(STREAM, requested(f"t{n}")) for n in range(6)]
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=4)
    await any_redis.xack(STREAM, GROUP, ids[0], ids[1], ids[3])
    await housekeeping(any_redis).go_round()
    assert [entry_id.decode() for entry_id, _ in await _raw(any_redis)] == ids[2:]
    assert not await entry_exists(any_redis, STREAM, ids[1])
    assert await entry_exists(any_redis, STREAM, ids[2])


async def test_trimming_leaves_lag_known(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    for n in range(5):
        await publisher.publish(STREAM, requested(f"t{n}"))
    read: Any = await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=3)
    await any_redis.xack(STREAM, GROUP, *[entry_id for entry_id, _ in read[0][1]])
    await housekeeping(any_redis).go_round()
    (row,) = await any_redis.xinfo_groups(STREAM)
    assert row["lag"] == 2
    assert STREAM_LAG.labels(STREAM, GROUP)._value.get() == 2
    assert STREAM_PENDING.labels(STREAM, GROUP)._value.get() == 0


async def test_task_streams_never_see_xdel(redis: Redis, pool: Pool) -> None:
    async def refuse_some(delivery: Delivery) -> Finish:
        if delivery.event.taskid == "t1":
            raise DeadLetter("no")
        return DONE

    letters = PostgresDeadLetters(pool)
    async with consuming(redis, STREAM, refuse_some, group=GROUP, dead_letters=letters):
        for n in range(3):
            await Publisher(redis).publish(STREAM, requested(f"t{n}"))
        (kept,) = await eventually(lambda: letters.list("default"))
        await letters.redrive(redis, "default", kept.dead_letter_id)
        await eventually(lambda: _handled(redis))
        await housekeeping(redis).go_round()
    assert await redis.xlen(STREAM) == 0
    commands: dict[str, Any] = await ask(redis, "INFO", "commandstats")
    assert "cmdstat_xdel" not in commands


async def test_lag_is_counted_where_redis_does_not_know_it(any_redis: Redis) -> None:
    publisher = Publisher(any_redis)
    await ensure_group(any_redis, STREAM, GROUP)
    ids = [await publisher.publish(STREAM, requested(f"t{n}")) for n in range(5)]
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=2)
    await any_redis.xdel(STREAM, ids[3])
    (row,) = await any_redis.xinfo_groups(STREAM)
    assert row["lag"] is None
    (state,) = await group_states(any_redis, STREAM)
    assert state.lag == 2


async def test_trimming_looks_at_the_contracts_group_only(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    await ensure_group(redis, STREAM, GROUP)
    await ensure_group(redis, STREAM, "abandoned")
    entry_id = await Publisher(redis).publish(STREAM, requested())
    await redis.xreadgroup(GROUP, "c1", {STREAM: ">"})
    await redis.xack(STREAM, GROUP, entry_id)
    keeper = housekeeping(redis)
    await keeper.go_round()
    await keeper.go_round()
    assert await redis.xlen(STREAM) == 0
    assert capsys.readouterr().out.count("bus_foreign_group") == 1


async def test_announcements_are_kept_short_by_length(any_redis: Redis) -> None:
    # Filled inside Redis, a few thousand at a time: one pipeline of them all has five seconds to be written in, which
    # a busy machine does not keep.
    for _ in range(EVENTS_MAXLEN // 5_000 + 1):
        await ask(any_redis, "EVAL", _FILL, 1, EVENTS_STREAM, 5_000)
    await Publisher(any_redis).publish(EVENTS_STREAM, event())
    assert await any_redis.xlen(EVENTS_STREAM) <= EVENTS_MAXLEN + 200  # approximate: whole nodes of 100


async def test_full_stream_refuses_more_until_it_is_drained(redis: Redis) -> None:
    await ensure_group(redis, STREAM, GROUP)
    publisher = Publisher(redis, hard_limit=3)
    for n in range(3):
        await publisher.publish(STREAM, requested(f"t{n}"))
    with pytest.raises(RetryLater, match="agents are behind"):
        await publisher.publish(STREAM, requested("t3"))
    async with consuming(redis, STREAM, acknowledge, group=GROUP):
        await eventually(lambda: _handled(redis))
    await housekeeping(redis).go_round()
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

    async def answer(delivery: Delivery) -> Finish:
        return Finish([("answers", event("big"))]) if delivery.event.subject == "talkative" else DONE

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
    await keeper.go_round()
    names = {row["name"] for row in await any_redis.xinfo_consumers(STREAM, GROUP)}
    assert names == {b"with-pending", b"alive"}
    assert await pending(any_redis, STREAM, GROUP) == 1


async def test_retiring_looks_at_pending_entries_in_the_same_step(any_redis: Redis) -> None:
    """An entry may be delivered between the look and the removal, and would go with the consumer."""
    await ensure_group(any_redis, STREAM, GROUP)
    entry_id = await Publisher(any_redis).publish(STREAM, requested())
    await any_redis.xreadgroup(GROUP, "c1", {STREAM: ">"})
    assert not await retire_consumer(any_redis, STREAM, GROUP, "c1")
    assert await pending(any_redis, STREAM, GROUP) == 1
    await any_redis.xack(STREAM, GROUP, entry_id)
    assert await retire_consumer(any_redis, STREAM, GROUP, "c1")


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


async def _raw(redis: Redis, entry_id: str | None = None) -> list[tuple[bytes, dict[bytes, bytes]]]:
    found: Any = await redis.xrange(STREAM, entry_id or "-", entry_id or "+")
    return list(found)


async def _flushed(redis: Redis) -> bool:
    try:
        await redis.flushall()
    except AWAY:
        return False
    return True


async def _handled(redis: Redis) -> bool:
    states = await group_states(redis, STREAM)
    return bool(states) and states[0].lag == 0 and states[0].pending == 0


async def _idle_for(redis: Redis, consumer: str, milliseconds: int) -> bool:
    rows = await redis.xinfo_consumers(STREAM, GROUP)
    return any(row["name"] == consumer.encode() and row["idle"] >= milliseconds for row in rows)


async def _pending_is(redis: Redis, count: int) -> bool:
    return await pending(redis, STREAM, GROUP) == count
