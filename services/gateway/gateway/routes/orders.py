"""Orders, and operators' verbs for parked compensations."""

from typing import Annotated

from fastapi import Path, Query, Response

from flotilla.contracts.orders import OperatorVerb, OrderStatus, Verb
from flotilla.contracts.requests import OrderRequest
from flotilla.eventstore.sessions import check_may_write_session
from flotilla.postgres import tenant_transaction
from gateway.auth.principal import EVERYONE, OPERATORS
from gateway.guard import allow, guarded_router
from gateway.orders import records
from gateway.orders.money import parse_minor_units
from gateway.orders.operating import send_operator_verb
from gateway.paging import DEFAULT_LIMIT, Cursor, Limit, next_time_cursor, read_time_cursor
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ID_PATTERN, ResourceId
from gateway.schemas.orders import Order, OrderAccepted, OrderBody, OrderList, RetryBody, VerbBody
from gateway.services import Caller, GatewayServices, Wired

router = guarded_router("orders")
StepName = Annotated[str, Path(pattern=ID_PATTERN, description="The step's number, from 1, or its name.")]
_STEP = "/v1/orders/{order_id}/steps/{step}"


@router.post("/v1/orders", status_code=202, response_model=OrderAccepted, responses=documented_errors(409, 413, 415))
@allow(OPERATORS, for_others=True)
async def place_order(services: Wired, caller: Caller, body: OrderBody, response: Response) -> Order:
    """Place an order: funds are reserved, the buyer verified, the order approved; or all of it is undone."""
    request = OrderRequest(
        order_id=body.order_id,
        user_id=body.user_id,
        amount_minor=parse_minor_units(body.amount, body.currency),
        product_id=body.product_id,
        currency=body.currency,
        tenant_id=caller.tenant_id,
        session_id=body.session_id or body.order_id,
    )
    placed = await records.store_order(services.pool, request, caller, services.access_for_new_session(caller))
    if placed.start is not None:
        await services.temporal.start_workflow(placed.start)
    response.headers["Location"] = f"/v1/orders/{body.order_id}"
    return placed.order


@router.get("/v1/orders", response_model=OrderList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_orders(
    services: Wired,
    caller: Caller,
    status: Annotated[OrderStatus | None, Query(description="Only these.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> OrderList:
    """List orders, newest first."""
    before = read_time_cursor(cursor)
    rows = await records.list_orders(services.pool, caller.tenant_id, status=status, limit=limit, before=before)
    return OrderList(
        orders=[records.order_from_row(row) for row in rows], next_cursor=next_time_cursor(rows, limit, "order_id")
    )


@router.get("/v1/orders/{order_id}", response_model=Order, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_order(services: Wired, caller: Caller, order_id: ResourceId) -> Order:
    """One order: its status, confirmation or reason, and each step."""
    return await records.get_order(services.pool, caller.tenant_id, order_id)


@router.post(f"{_STEP}/retry", response_model=Order, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS)
async def retry_step(
    services: Wired, caller: Caller, order_id: ResourceId, step: StepName, body: RetryBody | None = None
) -> Order:
    """Run a parked compensation again."""
    return await _operate(services, caller, order_id, _verb(caller, step, "retry", body.reason if body else None))


@router.post(f"{_STEP}/skip", response_model=Order, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS)
async def skip_step(services: Wired, caller: Caller, order_id: ResourceId, step: StepName, body: VerbBody) -> Order:
    """Give a parked compensation up."""
    return await _operate(services, caller, order_id, _verb(caller, step, "skip", body.reason))


@router.post(f"{_STEP}/resolve", response_model=Order, responses=documented_errors(404, 409, 413, 415))
@allow(OPERATORS)
async def resolve_step(services: Wired, caller: Caller, order_id: ResourceId, step: StepName, body: VerbBody) -> Order:
    """Record that a parked compensation was done by hand."""
    return await _operate(services, caller, order_id, _verb(caller, step, "resolve", body.reason))


def _verb(caller: Caller, step: str, verb: Verb, reason: str | None) -> OperatorVerb:
    return OperatorVerb(step=step, verb=verb, subject=caller.subject, reason=reason)


async def _operate(services: GatewayServices, caller: Caller, order_id: str, verb: OperatorVerb) -> Order:
    order = await records.get_order(services.pool, caller.tenant_id, order_id)
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await check_may_write_session(connection, caller.tenant_id, order.session_id)
    state = await send_operator_verb(services.temporal, caller.tenant_id, order, verb)
    changes = {
        "status": state.status,
        "confirmation": state.confirmation,
        "reason": state.reason,
        "steps": state.steps,
    }
    return order.model_copy(update=changes)
