"""Append: gap-free sequence numbers, ids in order, all or nothing with the caller's transaction."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from flotilla.contracts import AgentStateEvent
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.errors import Invalid, NotFound, SequenceConflict
from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox import append
from flotilla.outbox.append import MAX_EVENT_BYTES
from flotilla.postgres import Connection, Pool, set_tenant, tenant_transaction
from flotilla.telemetry import configure_traces, span
from tests.support.session_events import TENANT, append_messages, create_session, message


async def make_session(pool: Pool, session_id: str = "s") -> None:
    async with tenant_transaction(pool, TENANT) as connection:
        await create_session(connection, session_id)


async def head_of(connection: Connection, session_id: str = "s") -> int:
    return int(await connection.fetchval("SELECT head_seq FROM flotilla.sessions WHERE session_id = $1", session_id))


async def test_concurrent_appends_leave_no_gap_and_ids_follow_seq(pool: Pool, superuser: Connection) -> None:
    await make_session(pool)

    async def write(rounds: int) -> None:
        for _ in range(rounds):
            async with tenant_transaction(pool, TENANT) as connection:
                await append(connection, TENANT, "s", [message("one"), message("two"), message("three")])

    await asyncio.gather(*(write(10) for _ in range(8)))
    seqs = [row["seq"] for row in await superuser.fetch("SELECT seq FROM flotilla.event_outbox ORDER BY id")]
    assert seqs == list(range(1, 8 * 10 * 3 + 1))


async def test_rolled_back_events_leave_neither_rows_nor_a_gap(pool: Pool, superuser: Connection) -> None:
    await make_session(pool)
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await set_tenant(connection, TENANT)
        await append(connection, TENANT, "s", [message("never")])
        await transaction.rollback()
    await append_messages(pool, "s", ["kept"])
    bodies = [decode_event(row["body"]) for row in await superuser.fetch("SELECT body FROM flotilla.event_outbox")]
    assert [(event.sequence, event.data["content"]) for event in bodies] == [(1, "kept")]


async def test_the_row_holds_the_events_bytes_its_lane_and_its_trace(pool: Pool, superuser: Connection) -> None:
    configure_traces("test", None, 1.0)
    await make_session(pool)
    async with tenant_transaction(pool, TENANT) as connection:
        with span("making an event"):
            appended = await append(connection, TENANT, "s", [message("hello")])
    row = await superuser.fetchrow("SELECT * FROM flotilla.event_outbox")
    assert row is not None
    assert decode_event(row["body"]) == appended.events[0]
    assert row["lane"] == lane_of_session(TENANT, "s")
    assert row["traceparent"] == appended.events[0].traceparent is not None


async def test_expected_seq_lets_one_of_two_writers_win(pool: Pool) -> None:
    await make_session(pool)
    await append_messages(pool, "s", ["first"])
    async with tenant_transaction(pool, TENANT) as connection:
        await append(connection, TENANT, "s", [message("mine")], expected_seq=1)
    with pytest.raises(SequenceConflict, match="at seq 2, not 1"):
        async with tenant_transaction(pool, TENANT) as connection:
            await append(connection, TENANT, "s", [message("late")], expected_seq=1)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


async def test_what_no_store_holds_is_kept_as_its_escape_with_a_mark(pool: Pool, superuser: Connection) -> None:
    await make_session(pool)
    async with tenant_transaction(pool, TENANT) as connection:
        await append(connection, TENANT, "s", [message("lone \ud800 surrogate"), message("NUL \x00")])
    rows = await superuser.fetch("SELECT body FROM flotilla.event_outbox ORDER BY seq")
    first, second = (decode_event(row["body"]).data for row in rows)
    assert (first["content"], first["escaped"]) == ("lone \\ud800 surrogate", ["/content"])
    assert (second["content"], second["escaped"]) == ("NUL \\u0000", ["/content"])


@pytest.mark.parametrize(
    ("event", "expected_seq", "error"),
    [
        (message("x" * MAX_EVENT_BYTES), None, Invalid),
        (message("fine", event_id="no uuid"), None, Invalid),
        (AgentStateEvent(kind="message", data={"role": object()}, source="/tests"), None, Invalid),  # type: ignore[dict-item]
        (AgentStateEvent(kind="message", data=nested(200), source="/tests"), None, Invalid),
        (message("fine"), 7, SequenceConflict),
    ],
    ids=["oversize", "id is not a UUID", "not JSON", "too deep", "conflict"],
)
async def test_a_caller_that_catches_the_refusal_and_commits_leaves_no_gap(
    pool: Pool, event: AgentStateEvent, expected_seq: int | None, error: type[Exception]
) -> None:
    await make_session(pool)
    async with tenant_transaction(pool, TENANT) as connection:
        with pytest.raises(error):
            await append(connection, TENANT, "s", [message("before"), event], expected_seq=expected_seq)
    async with tenant_transaction(pool, TENANT) as connection:
        assert await head_of(connection) == 0


async def test_an_event_of_exactly_the_limit_is_accepted(pool: Pool, superuser: Connection) -> None:
    await make_session(pool)
    async with tenant_transaction(pool, TENANT) as connection:
        await append(connection, TENANT, "s", [message("")])
    # The draft is measured with the longest possible sequence number, so a short one leaves 18 bytes.
    empty = await superuser.fetchval("SELECT octet_length(body) FROM flotilla.event_outbox")
    async with tenant_transaction(pool, TENANT) as connection:
        await append(connection, TENANT, "s", [message("x" * (MAX_EVENT_BYTES - empty - 18))])
        with pytest.raises(Invalid, match="900000 are allowed"):
            await append(connection, TENANT, "s", [message("x" * (MAX_EVENT_BYTES - empty + 1))])


async def test_unknown_session_and_other_tenants_session_are_not_found(pool: Pool) -> None:
    await make_session(pool)
    for tenant in (TENANT, "other"):
        async with tenant_transaction(pool, tenant) as connection:
            with pytest.raises(NotFound):
                await append(connection, tenant, "nobody" if tenant == TENANT else "s", [message("hello")])


async def test_a_given_event_id_is_kept(pool: Pool, superuser: Connection) -> None:
    await make_session(pool)
    wanted = str(uuid4())
    async with tenant_transaction(pool, TENANT) as connection:
        await append(connection, TENANT, "s", [message("hello", event_id=wanted)])
    assert str(await superuser.fetchval("SELECT event_id FROM flotilla.event_outbox")) == wanted


async def test_the_application_can_neither_change_nor_delete_what_it_appended(pool: Pool) -> None:
    await append_messages(pool, "s", ["kept"])
    for statement in ("DELETE FROM flotilla.event_outbox", "UPDATE flotilla.event_outbox SET body = ''"):
        with pytest.raises(Exception, match="permission denied"):
            async with tenant_transaction(pool, TENANT) as connection:
                await connection.execute(statement)


async def test_nothing_runs_at_commit_but_the_insert(superuser: Connection) -> None:
    """A NOTIFY there would take a lock of the whole server until the commit is over."""
    triggers = await superuser.fetchval(
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'flotilla.event_outbox'::regclass"
    )
    assert triggers == 0
