"""The rows of `flotilla.orders` as the gateway reads and writes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, no_such
from flotilla.contracts.event_builders import state_change
from flotilla.contracts.names import ORDER_WORKFLOW, order_workflow_id
from flotilla.contracts.requests import OrderRequest
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.encryption.tables import ORDERS
from flotilla.eventstore.sessions import SessionAccess, ensure_session
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_row, open_rows, seal_columns, tenant_transaction
from flotilla.telemetry import current_traceparent
from gateway.auth.principal import Principal
from gateway.names import SOURCE
from gateway.orders.money import format_minor_units
from gateway.schemas.orders import Order
from gateway.temporal import WorkflowStart

_COLUMNS = """order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency, status, confirmation,
    reason, steps, created_at, finished_at"""
# Nothing happens where the order exists.
_INSERT_ORDERS = """
INSERT INTO flotilla.orders (tenant_id, order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency,
    request, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10) ON CONFLICT DO NOTHING
"""
_SELECT_ORDERS = f"SELECT {_COLUMNS} FROM flotilla.orders WHERE tenant_id = $1 AND order_id = $2"  # noqa: S608 - a constant
_SELECT_REQUEST_ORDERS = (
    "SELECT order_id, session_id, request FROM flotilla.orders WHERE tenant_id = $1 AND order_id = $2"
)
# A page, newest first; $4 and $5 are the last row of the page before.
_LIST_ORDERS = f"""
SELECT {_COLUMNS} FROM flotilla.orders
WHERE tenant_id = $1 AND ($2::text IS NULL OR status = $2)
  AND ($4::timestamptz IS NULL OR (created_at, order_id) < ($4, $5))
ORDER BY created_at DESC, order_id DESC LIMIT $3
"""  # noqa: S608


class OrderExists(Conflict):
    """The order's id is taken by another order."""

    code = "order_exists"


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """An order, and how to start its workflow; None when it was placed before."""

    order: Order
    start: WorkflowStart | None


async def store_order(pool: Pool, request: OrderRequest, caller: Principal, access: SessionAccess) -> PlacedOrder:
    """Commits session (if it is new, with `access`), order and first event together.

    Raises:
        OrderExists: the order's id is taken by another order.
    """
    tenant_id, order_id = request.tenant_id, request.order_id
    workflow_id = order_workflow_id(tenant_id, order_id)
    async with tenant_transaction(pool, tenant_id) as connection:
        await ensure_session(connection, tenant_id, request.session_id, caller.subject, access)
        stored = await seal_columns(
            connection,
            tenant_id,
            request.session_id,
            ORDERS,
            order_id,
            product_id=request.product_id,
            request=to_json(request).decode(),
        )
        is_new = await connection.execute(
            _INSERT_ORDERS,
            tenant_id,
            order_id,
            request.session_id,
            workflow_id,
            request.user_id,
            stored["product_id"],
            request.amount_minor,
            request.currency,
            stored["request"],
            current_traceparent(),
        )
        if is_new == "INSERT 0 1":
            await append(connection, tenant_id, request.session_id, [_placed_event(request, caller)])
            return PlacedOrder(
                await _get(connection, tenant_id, order_id), WorkflowStart(ORDER_WORKFLOW, workflow_id, request)
            )
        await _check_same(connection, request)
        return PlacedOrder(await _get(connection, tenant_id, order_id), None)


def _placed_event(request: OrderRequest, caller: Principal) -> AgentStateEvent:
    return state_change(
        "order_placed",
        {
            "order_id": request.order_id,
            "user_id": request.user_id,
            "product_id": request.product_id,
            "amount_minor": request.amount_minor,
            "currency": request.currency,
            "placed_by": caller.subject,
            **caller.acted_by_attribute,
        },
        SOURCE,
    )


async def _check_same(connection: Connection, request: OrderRequest) -> None:
    row = await connection.fetchrow(_SELECT_REQUEST_ORDERS, request.tenant_id, request.order_id)
    stored = (await open_row(connection, request.tenant_id, ORDERS, row or {}))["request"]
    if json.loads(stored) != json.loads(to_json(request)):
        raise OrderExists(f"order {request.order_id} exists and is another one: choose another id")


async def get_order(pool: Pool, tenant_id: str, order_id: str) -> Order:
    """One order.

    Raises:
        NotFound: the tenant has no such order.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        return await _get(connection, tenant_id, order_id)


async def list_orders(
    pool: Pool, tenant_id: str, *, status: str | None, limit: int, before: tuple[datetime | None, str | None]
) -> list[dict[str, Any]]:
    """Rows of a page, newest first."""
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_LIST_ORDERS, tenant_id, status, limit, *before)
        return await open_rows(connection, tenant_id, ORDERS, rows)


def order_from_row(row: Mapping[str, Any]) -> Order:
    """A row as clients see it."""
    amount = format_minor_units(row["amount_minor"], row["currency"])
    return Order.model_validate({**dict(row), "amount": amount, "steps": json.loads(row["steps"])})


async def _get(connection: Connection, tenant_id: str, order_id: str) -> Order:
    row = await connection.fetchrow(_SELECT_ORDERS, tenant_id, order_id)
    if row is None:
        raise no_such("order", order_id)
    return order_from_row(await open_row(connection, tenant_id, ORDERS, row))
