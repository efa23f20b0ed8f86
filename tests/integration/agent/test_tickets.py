"""A task counts only with a ticket that the worker signed over its every byte."""

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from flotilla.bus import Redis, ensure_group
from flotilla.bus.tickets import sign_event
from flotilla.config.signing import signer_with_new_key
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.ids import utc_now
from flotilla.contracts.names import task_stream
from flotilla.postgres import Pool
from tests.support.adder import Adder, asked
from tests.support.agents import publish, replies, rows, running, sealed, sealed_fields
from tests.support.postgres import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")
Fields = dict[Any, Any]
LETTERS = "SELECT reason, error, body, fields FROM flotilla.dead_letters"


def without_ticket() -> Fields:
    return {"event": sealed_fields(asked())["event"]}


def with_an_empty_ticket() -> Fields:
    return {**sealed_fields(asked()), "ticket": ""}


def signed_by_somebody_else() -> Fields:
    event = sign_event(decode_event(sealed(asked()).body), signer_with_new_key())
    return {"event": event.body, "ticket": event.ticket}


def with_the_key_id_of_the_worker() -> Fields:
    foreign, own = signed_by_somebody_else(), sealed_fields(asked())
    return {**foreign, "ticket": f"{own['ticket'].partition('.')[0]}.{foreign['ticket'].partition('.')[2]}"}


def of_another_task() -> Fields:
    return {**sealed_fields(asked()), "ticket": sealed_fields(asked(task_id="t2"))["ticket"]}


def changed(**fields: object) -> Callable[[], Fields]:
    def make() -> Fields:
        entry = sealed_fields(asked())
        document = json.loads(entry["event"])
        document["data"] |= fields
        return {**entry, "event": json.dumps(document)}

    return make


def with_a_blank_more() -> Fields:
    entry = sealed_fields(asked())
    return {**entry, "event": entry["event"] + b" "}


def with_a_long_ticket() -> Fields:
    return {**sealed_fields(asked()), "ticket": "A" * 1_000_000}


def with_a_ticket_that_is_not_text() -> Fields:
    return {**sealed_fields(asked()), "ticket": b"\xff\x00.\xff"}


FORGED = {
    "no ticket": without_ticket,
    "an empty ticket": with_an_empty_ticket,
    "another key": signed_by_somebody_else,
    "another key under the worker's id": with_the_key_id_of_the_worker,
    "the ticket of another task": of_another_task,
    "another tenant": changed(tenant_id="victim"),
    "another session": changed(session_id="s2"),
    "another attempt": changed(attempt=2),
    "another slip": changed(slip=["adder"]),
    "another person": changed(user_id="bob"),
    "another run": changed(run_id="r2"),
    "another input": changed(input={"a": 2}),
    "another reference": changed(input_from="t0"),
    "another deadline": changed(deadline="2999-01-01T00:00:00+00:00"),
    "a byte more": with_a_blank_more,
    "a megabyte of ticket": with_a_long_ticket,
    "a ticket that is not text": with_a_ticket_that_is_not_text,
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_a_task_without_a_valid_ticket_is_a_dead_letter_and_never_runs(
    pool: Pool, redis: Redis, forged: Callable[[], Fields]
) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await redis.xadd(task_stream("adder"), forged())
        (letter,) = await eventually(lambda: _letters(pool))
    assert (letter["reason"], adder.runs) == ("refused", 0)
    assert "is not the worker's: it" in letter["error"]
    assert await replies(redis) == []
    assert await rows(pool, "SELECT 1 FROM flotilla.agent_tasks") == []


async def _letters(pool: Pool) -> list[dict[str, Any]]:
    # The operator's tenant, and the one that the forgery names.
    from flotilla.postgres import tenant_transaction

    found: list[dict[str, Any]] = []
    for tenant in ("default", "victim"):
        async with tenant_transaction(pool, tenant) as connection:
            found += [dict(row) for row in await connection.fetch(LETTERS)]
    return found


async def test_a_task_whose_time_is_over_is_a_dead_letter_that_says_what_to_do(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked(deadline=(utc_now() - timedelta(minutes=2)).isoformat()))
        (letter,) = await eventually(lambda: rows(pool, LETTERS))
    assert "expired" in letter["error"]
    assert "redrive" in letter["error"]
    assert adder.runs == 0


@pytest.mark.parametrize("ahead", [timedelta(hours=1), -timedelta(hours=1)])
async def test_an_agent_whose_clock_is_wrong_works_on_what_is_due_and_refuses_what_is_over(
    pool: Pool, ahead: timedelta
) -> None:
    from flotilla.agent.ticket_check import TaskTicketCheck
    from flotilla.bus.entries import Delivery
    from flotilla.contracts.errors import DeadLetter

    def delivery(left: timedelta) -> Delivery:
        ticket = sign_event(decode_event(sealed(asked(deadline=(utc_now() + left).isoformat())).body), signer)
        return Delivery("1-0", decode_event(ticket.body), 1, {b"event": ticket.body, b"ticket": ticket.ticket.encode()})

    signer = signer_with_new_key()
    check = TaskTicketCheck("adder", signer.public_keys(), pool, clock=lambda: utc_now() + ahead)
    assert await check.check_and_read_task(delivery(timedelta(minutes=5))) is not None
    with pytest.raises(DeadLetter, match="expired"):
        await check.check_and_read_task(delivery(-timedelta(hours=3)))


async def test_a_key_that_was_replaced_is_good_while_both_are_trusted(pool: Pool, redis: Redis) -> None:
    from flotilla.agent.ticket_check import TaskTicketCheck
    from flotilla.bus.entries import Delivery
    from flotilla.config.signing import PublicKeys
    from flotilla.contracts.errors import Untrusted

    former, current = signer_with_new_key(), signer_with_new_key()
    both = PublicKeys.of(former, current)
    event = decode_event(sealed(asked()).body)
    for signer in (former, current):
        ticket = sign_event(event, signer)
        fields = {b"event": ticket.body, b"ticket": ticket.ticket.encode()}
        delivery = Delivery("1-0", event, 1, fields)
        assert await TaskTicketCheck("adder", both, pool).check_and_read_task(delivery) is not None
    with pytest.raises(Untrusted, match="not among the trusted ones"):
        await TaskTicketCheck("adder", former.public_keys(), pool).check_and_read_task(delivery)


async def opened_by_the_former_version(pool: Pool, database: Database, task_id: str = "t1") -> None:
    await rows(
        pool,
        "INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt) "
        "VALUES ('default', $1, 'adder', 's1', 'r1', 'queued', 1)",
        task_id,
    )


async def test_a_task_of_the_former_version_waits_for_its_ticket(pool: Pool, redis: Redis, database: Database) -> None:
    adder = Adder()
    await opened_by_the_former_version(pool, database)
    await ensure_group(redis, task_stream("adder"), "adder-agents")
    async with running(adder.agent, pool, redis):
        await redis.xadd(task_stream("adder"), without_ticket())
        await eventually(_given_back(redis))
        assert adder.runs == 0
        await publish(pool, redis, asked())
        await eventually(lambda: replies(redis, "done"))
    assert adder.runs == 1
    assert await rows(pool, LETTERS) == []


def _given_back(redis: Redis) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        summary: Any = await redis.xpending(task_stream("adder"), "adder-agents")
        return bool(summary["pending"])

    return look
