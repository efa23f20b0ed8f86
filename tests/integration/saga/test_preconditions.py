"""An order is approved on what the database holds, not on what the workflow says it has done.

Anyone who reaches Temporal can complete a step with an invented result, and start activities with their own messages.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from flotilla.contracts.orders import SAGA_VERB_UPDATE, OperatorVerb, OrderState
from flotilla.contracts.requests import OrderRequest
from flotilla.postgres import Pool, tenant_transaction
from tests.integration.saga.shop import Shop
from tests.integration.saga.test_orders import shop as shop  # noqa: PLC0414 - a fixture
from workflow_worker.activities.orders import OrderActivities
from workflow_worker.activities.signatures.orders import OrderReference, OrderStep

ORDER = OrderRequest(
    order_id="o1", user_id="alice", amount_minor=500, product_id="rope", tenant_id="acme", session_id="o1"
)
ADD_ACCOUNT = """
INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor) VALUES ('acme', $1, 'EUR', 990)
"""
Prepare = Callable[[OrderActivities], Awaitable[None]]


def step(name: str, order: OrderRequest = ORDER) -> OrderStep:
    key = OrderReference(tenant_id="acme", order_id=order.order_id, session_id=order.session_id)
    return OrderStep(key=key, step_id=f"{name}:{order.order_id}", order=order)


async def run(activity: Callable[[OrderStep], Awaitable[object]], message: OrderStep) -> None:
    await ActivityEnvironment().run(activity, message)


async def nothing(_orders: OrderActivities) -> None:
    """An empty hold."""


async def verified_only(orders: OrderActivities) -> None:
    await run(orders.verify_identity, step("verify_identity"))


async def reserved_only(orders: OrderActivities) -> None:
    await run(orders.reserve_funds, step("reserve_funds"))


async def less_than_the_order(orders: OrderActivities) -> None:
    await run(orders.reserve_funds, step("reserve_funds", replace(ORDER, amount_minor=1)))
    await verified_only(orders)


async def money_of_somebody_else(orders: OrderActivities) -> None:
    await run(orders.reserve_funds, step("reserve_funds", replace(ORDER, user_id="bob")))
    await verified_only(orders)


async def given_back(orders: OrderActivities) -> None:
    await reserved_only(orders)
    await verified_only(orders)
    await run(orders.release_funds, step("reserve_funds"))


async def somebody_else_verified(orders: OrderActivities) -> None:
    await reserved_only(orders)
    await run(orders.verify_identity, step("verify_identity", replace(ORDER, user_id="bob")))


async def verification_revoked(orders: OrderActivities) -> None:
    await reserved_only(orders)
    await verified_only(orders)
    await run(orders.revoke_verification, step("verify_identity"))


WITHOUT_GROUNDS: dict[str, tuple[Prepare, str]] = {
    "nothing reserved": (nothing, "NotReserved"),
    "verified, nothing reserved": (verified_only, "NotReserved"),
    "less reserved than the order's amount": (less_than_the_order, "NotReserved"),
    "somebody else's money reserved": (money_of_somebody_else, "NotReserved"),
    "reserved and given back": (given_back, "NotReserved"),
    "reserved, not verified": (reserved_only, "NotVerified"),
    "reserved, somebody else verified": (somebody_else_verified, "NotVerified"),
    "reserved, verification revoked": (verification_revoked, "NotVerified"),
}


@pytest.mark.parametrize(("prepare", "refusal"), WITHOUT_GROUNDS.values(), ids=WITHOUT_GROUNDS.keys())
async def test_an_order_without_its_grounds_is_not_approved(pool: Pool, prepare: Prepare, refusal: str) -> None:
    orders = OrderActivities(pool)
    async with tenant_transaction(pool, "acme") as connection:
        for user in ("alice", "bob"):
            await connection.execute(ADD_ACCOUNT, user)
    await ActivityEnvironment().run(orders.begin_order, ORDER)
    await prepare(orders)
    with pytest.raises(ApplicationError) as caught:
        await run(orders.approve_order, step("approve_order"))
    assert caught.value.type == refusal
    assert caught.value.non_retryable
    async with tenant_transaction(pool, "acme") as connection:
        row = await connection.fetchrow("SELECT approval, confirmation FROM flotilla.orders")
        spent = await connection.fetchval("SELECT sum(spent_minor) FROM flotilla.accounts")
    assert row is not None
    assert (row["approval"], row["confirmation"], spent) == (None, None, 0)


async def test_an_operator_of_another_tenant_reaches_no_saga_of_a_shared_workflow_id(shop: Shop) -> None:
    """Orders of former versions can share a workflow id: the saga looks whose it is."""
    shop.faults.at = {"approve_order:before", "release_funds:before"}
    handle = await shop.place("o1")
    verb = OperatorVerb(step="1", verb="skip", subject="eve", reason="mine", tenant_id="acme-eu", order_id="1")
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update(SAGA_VERB_UPDATE, verb, result_type=OrderState)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "UnknownOrder"
    shop.faults.at = set()
    await handle.result()
