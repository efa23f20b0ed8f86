"""However an order fails, its money is where it belongs."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from temporalio.client import Client, WorkflowUpdateFailedError

from flotilla.contracts.orders import CANCEL_UPDATE
from flotilla.postgres import Pool
from tests.integration.saga.shop import BALANCE, Faults, Shop, open_shop
from tests.support.consumers import start
from tests.support.postgres import Database
from tests.support.time_skipping import time_skipping_server
from tests.support.waiting import eventually

FORWARD = ("reserve_funds", "verify_identity", "approve_order")
UNDO = {"reserve_funds": "release_funds", "verify_identity": "revoke_verification", "approve_order": "cancel_order"}
POINTS = [f"{step}:{moment}" for step in FORWARD for moment in ("before", "after")]
CRASHES = [*POINTS, *(f"{undo}:{moment}" for undo in UNDO.values() for moment in ("before", "after"))]


@pytest.fixture
async def shop(pool: Pool, unique: Callable[[str], str]) -> AsyncIterator[Shop]:
    """A shop on a server that skips time, with one account."""
    async with time_skipping_server() as environment, open_shop(environment.client, pool, unique("queue")) as it:
        await it.add_account()
        yield it


async def test_an_order_that_succeeds_spends_its_amount(shop: Shop) -> None:
    state = await (await shop.place("o1")).result()
    assert (state.status, state.confirmation) == ("approved", "C-o1")
    assert [step.status for step in state.steps] == ["done"] * 3
    assert await shop.money() == (BALANCE, 2_500, 0)
    row = await shop.order("o1")
    assert (row["status"], row["confirmation"]) == ("approved", "C-o1")
    changes = [event.data["change"] for event in await shop.events("o1")]
    assert changes == ["order_step_done"] * 3 + ["order_approved"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_failure_before_or_after_any_effect_gives_the_money_back(shop: Shop, point: str) -> None:
    shop.faults.at = {point}
    state = await (await shop.place("o1")).result()
    assert state.status == "rejected"
    assert state.reason == f"Injected: injected at {point}"
    assert await shop.money() == (BALANCE, 0, 0)
    started = FORWARD[: FORWARD.index(point.partition(":")[0]) + 1]
    undone = [call for call in shop.faults.calls if call in UNDO.values()]
    assert undone == [UNDO[step] for step in reversed(started)]
    assert (await shop.order("o1"))["status"] == "rejected"
    told = [event for event in await shop.events("o1") if event.type == "flotilla.session.message.v1"]
    assert len(told) == 1


async def test_too_little_money_and_an_unverified_customer_are_rejected(shop: Shop) -> None:
    state = await (await shop.place("o1", amount_minor=BALANCE + 1)).result()
    assert (state.status, str(state.reason).partition(":")[0]) == ("rejected", "InsufficientFunds")
    await shop.rows("UPDATE flotilla.accounts SET verified = false")
    state = await (await shop.place("o2")).result()
    assert (state.status, str(state.reason).partition(":")[0]) == ("rejected", "IdentityNotVerified")
    assert await shop.money() == (BALANCE, 0, 0)


@pytest.mark.parametrize("step", FORWARD)
async def test_a_step_that_commits_after_its_compensation_comes_to_nothing(shop: Shop, step: str) -> None:
    """The step is paused until its compensation has finished, as a worker would be that lost its network."""
    point = f"{step}:before"
    shop.faults.pauses[point] = asyncio.Event()
    handle = await shop.place("o1")
    await eventually(lambda: point in shop.faults.reached)
    assert await handle.execute_update(CANCEL_UPDATE)
    state = await handle.result()
    assert (state.status, state.reason) == ("rejected", "cancelled")
    before = await shop.money()
    assert before == (BALANCE, 0, 0)
    assert step not in shop.faults.ended
    shop.faults.pauses[point].set()
    await eventually(lambda: step in shop.faults.ended)
    assert f"{step}:after" not in shop.faults.reached  # it met the tombstone
    assert await shop.money() == before
    assert (await shop.order("o1"))["approval"] != "approved"


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", ["update", "temporal"])
async def test_a_cancellation_at_any_point_gives_the_money_back(shop: Shop, point: str, how: str) -> None:
    shop.faults.pauses[point] = asyncio.Event()
    handle = await shop.place("o1")
    await eventually(lambda: point in shop.faults.reached)
    if how == "update":
        assert await handle.execute_update(CANCEL_UPDATE)
    else:
        await handle.cancel()
    state = await handle.result()
    shop.faults.pauses[point].set()
    assert (state.status, state.reason) == ("rejected", "cancelled")
    assert await shop.money() == (BALANCE, 0, 0)


@pytest.mark.parametrize("step", FORWARD)
@pytest.mark.parametrize("verb", ["retry", "skip", "resolve"])
async def test_a_compensation_that_keeps_failing_waits_for_an_operator(
    pool: Pool, unique: Callable[[str], str], step: str, verb: str
) -> None:
    faults = Faults({"approve_order:after", f"{UNDO[step]}:before"})
    async with (
        time_skipping_server() as environment,
        open_shop(environment.client, pool, unique("queue"), faults) as shop,
    ):
        await shop.add_account()
        handle = await shop.place("o1")
        await eventually(lambda: shop.is_parked("o1"))
        assert (await shop.money())[0] == BALANCE
        faults.at.clear()
        if verb != "retry":
            with pytest.raises(WorkflowUpdateFailedError):
                await shop.operate(handle, step, verb)  # type: ignore[arg-type]
        await shop.operate(handle, step, verb, "looked into it")  # type: ignore[arg-type]
        state = await handle.result()
        assert state.status == "rejected"
        expected = {"retry": "compensated", "skip": "skipped", "resolve": "resolved"}[verb]
        assert {s.name: s.status for s in state.steps}[step] == expected
        total, spent, held = await shop.money()
        assert total == BALANCE
        assert (spent, held) == ((0, 0) if verb == "retry" or step == "verify_identity" else (spent, held))
        operated = [event for event in await shop.events("o1") if "operator" in event.data.get("details", {})]  # type: ignore[operator]
        assert len(operated) == 1


async def test_a_notification_that_fails_changes_nothing(shop: Shop) -> None:
    shop.faults.at = {"verify_identity:before", "send_rejection_notification:before"}
    state = await (await shop.place("o1")).result()
    assert state.status == "rejected"
    assert await shop.money() == (BALANCE, 0, 0)


async def test_orders_of_a_worker_killed_at_any_point_are_finished_by_the_next(
    database: Database, pool: Pool, unique: Callable[[str], str], temporal_client: Client, temporal_address: str
) -> None:
    """kill -9 while one order each is before or after every effect; what was approved is spent, the rest given back."""
    points = {point.replace(":", "-"): point for point in CRASHES}
    queue = unique("queue")
    killed = await asyncio.to_thread(
        start,
        "tests.integration.saga.shop_process",
        dsn=database.dsn("flotilla_worker"),
        address=temporal_address,
        queue=queue,
    )
    try:
        shop = Shop(temporal_client, pool, queue, Faults())
        await shop.add_account(available=2 * len(points) * BALANCE)
        handles = {order_id: await shop.place(order_id) for order_id in points}
        async with asyncio.timeout(60):
            reached = {(await asyncio.to_thread(killed.output.readline)).strip() for _ in points}
        assert reached == set(points)
    finally:
        await asyncio.to_thread(killed.kill)
        killed.output.close()
    async with open_shop(temporal_client, pool, queue):
        ended = {order_id: await handle.result() for order_id, handle in handles.items()}
    undoing = {order_id for order_id, point in points.items() if point.startswith(tuple(UNDO.values()))}
    assert {order_id: state.status for order_id, state in ended.items()} == {
        order_id: "rejected" if order_id in undoing else "approved" for order_id in points
    }
    spent = 2_500 * (len(points) - len(undoing))
    assert await shop.money() == (2 * len(points) * BALANCE, spent, 0)
    assert {row["status"] for row in await shop.rows("SELECT status FROM flotilla.orders")} == {"approved", "rejected"}
