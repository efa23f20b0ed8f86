"""`flotilla orders` against a running fleet."""

from collections.abc import Callable
from typing import Any

from tests.e2e.fleet import Fleet
from tests.integration.cli.api import until

Unique = Callable[[str], str]


async def settled(fleet: Fleet, order_id: str) -> Any:
    """The order, once it is approved, rejected or parked."""
    return await until(fleet, f"/orders/{order_id}", lambda order: order if order["status"] != "pending" else None)


def place(order_id: str, user: str, amount: str) -> tuple[str, ...]:
    return ("orders", "place", "--order-id", order_id, "--user", user, "--amount", amount, "--product", "p-1")


async def test_an_order_nobody_can_pay_is_rejected_with_the_reason(fleet: Fleet, unique: Unique) -> None:
    order_id = unique("order")
    fleet.cli(*place(order_id, unique("nobody"), "12.50"))
    order = await settled(fleet, order_id)
    assert order["status"] == "rejected"
    assert order["amount"] == "12.50"
    assert order["reason"]
    shown = fleet.cli("orders", "get", order_id).stdout
    assert "reserve_funds" in shown
    assert order_id in fleet.cli("orders", "list", "--status", "rejected").stdout


async def test_placing_an_order_again_does_nothing_and_another_one_under_its_id_is_refused(
    fleet: Fleet, unique: Unique
) -> None:
    order_id, user = unique("order"), unique("nobody")
    fleet.cli(*place(order_id, user, "12.50"))
    await settled(fleet, order_id)
    fleet.cli(*place(order_id, user, "12.50"))
    other = fleet.cli(*place(order_id, user, "99.00"), check=False)
    assert other.returncode == 1
    assert "409" in other.stderr


async def test_only_a_parked_step_can_be_operated(fleet: Fleet, unique: Unique) -> None:
    order_id = unique("order")
    fleet.cli(*place(order_id, unique("nobody"), "12.50"))
    await settled(fleet, order_id)
    for verb in (
        ("retry", order_id, "1"),
        ("skip", order_id, "1", "--reason", "r"),
        ("resolve", order_id, "1", "--reason", "r"),
    ):
        assert fleet.cli("orders", *verb, check=False).returncode in (1, 3)
    assert fleet.cli("orders", "skip", order_id, "1", check=False).returncode == 2


def test_an_amount_finer_than_a_cent_and_an_unknown_order_are_refused(fleet: Fleet, unique: Unique) -> None:
    assert fleet.cli(*place(unique("order"), "alice", "12.505"), check=False).returncode == 2
    assert fleet.cli("orders", "get", "no-such-order", check=False).returncode == 3
