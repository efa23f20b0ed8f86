"""An order whose money can't be given back, until an operator does something about it, through the API."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from tests.integration.gateway.conftest import Replica
from tests.integration.saga.shop import BALANCE, Faults, Shop, open_shop
from tests.support.waiting import eventually

DETAILS = """
SELECT convert_from(body, 'UTF8')::jsonb -> 'data' -> 'details' AS details FROM flotilla.event_outbox
WHERE session_id = $1 AND convert_from(body, 'UTF8')::jsonb -> 'data' -> 'details' ? 'operator' ORDER BY seq
"""


async def parked(client: httpx.AsyncClient, order_id: str) -> dict[str, Any]:
    """The order, once a compensation waits for an operator."""

    async def look() -> dict[str, Any] | None:
        order: dict[str, Any] = (await client.get(f"/v1/orders/{order_id}")).json()
        return order if order["status"] == "compensation_failed" else None

    return await eventually(look, timeout_s=60)


@pytest.mark.parametrize(("verb", "left"), [("skip", "skipped"), ("resolve", "resolved")])
async def test_a_parked_compensation_is_retried_and_then_given_up_each_on_record(
    replica: Replica, temporal_client: Client, unique: Callable[[str], str], verb: str, left: str
) -> None:
    faults = Faults({"approve_order:after", "release_funds:before"})
    async with (
        replica() as gateway,
        open_shop(temporal_client, gateway.pool, gateway.settings.task_queue, faults) as shop,
    ):
        await shop.add_account()
        olga = await gateway.client_of("olga", "operator", person=True)
        vera = await gateway.client_of("vera", "viewer", person=True)
        order_id = unique("o")
        body = {"order_id": order_id, "user_id": "alice", "amount": "25.00", "product_id": "rope"}
        assert (await olga.post("/v1/orders", json=body)).status_code == 202
        order = await parked(olga, order_id)
        step = f"/v1/orders/{order_id}/steps/1"
        assert {s["name"]: s["status"] for s in order["steps"]}["reserve_funds"] == "parked"
        assert (await vera.post(f"{step}/retry")).status_code == 403
        assert (await olga.post(f"{step}/{verb}", json={"reason": " "})).status_code == 422
        forged = await olga.post(f"{step}/{verb}", json={"reason": "r", "subject": "vera"})
        assert forged.status_code == 422

        assert (await olga.post(f"{step}/retry", json={"reason": "the bank is back"})).status_code == 200
        await parked(olga, order_id)
        assert (await olga.post(f"{step}/{verb}", json={"reason": "by hand"})).status_code == 200
        await _over(olga, order_id)
        again = await olga.post(f"{step}/{verb}", json={"reason": "by hand"})
        assert (again.status_code, again.json()["code"]) == (409, "not_parked")
        order = (await olga.get(f"/v1/orders/{order_id}")).json()
        assert {s["name"]: s["status"] for s in order["steps"]}["reserve_funds"] == left
        await _check_record(shop, order_id, verb)


async def _over(client: httpx.AsyncClient, order_id: str) -> None:
    async def rejected() -> bool:
        order = (await client.get(f"/v1/orders/{order_id}")).json()
        return bool(order["status"] == "rejected" and order["finished_at"])

    await eventually(rejected, timeout_s=60)


async def _check_record(shop: Shop, order_id: str, verb: str) -> None:
    assert (await shop.money())[0] == BALANCE
    operators = [json.loads(row["details"])["operator"] for row in await shop.rows(DETAILS, order_id)]
    assert [(operator["verb"], operator["subject"], operator["reason"]) for operator in operators] == [
        ("retry", "olga", "the bank is back"),
        (verb, "olga", "by hand"),
    ]
