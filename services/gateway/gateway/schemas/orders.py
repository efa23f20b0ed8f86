"""Orders."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, JsonValue, StringConstraints

from flotilla.contracts.orders import OrderStatus, SagaStepState
from gateway.schemas.common import Answer, Id, Name, Reason, RequestBody

_ORDER: JsonValue = {"order_id": "o-17", "user_id": "alice", "amount": "12.50", "currency": "EUR", "product_id": "p-1"}


class OrderBody(RequestBody):
    """An order."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ORDER]})

    order_id: Id
    """Chosen by the client: placing the same order again does nothing."""
    user_id: Name
    """Who pays."""
    amount: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,15}(\.[0-9]{1,3})?$")]
    """Decimal, above 0, not finer than the currency allows."""
    product_id: Name
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] = "EUR"
    """ISO 4217."""
    session_id: Id | None = None
    """The session that records it; by default one of the order's own."""


class OrderAccepted(Answer):
    """An order that was placed."""

    order_id: str
    session_id: str
    workflow_id: str
    status: OrderStatus


class Order(OrderAccepted):
    """An order, and how far it is."""

    user_id: str
    amount: str
    currency: str
    product_id: str
    confirmation: str | None
    reason: str | None
    """Why it was rejected."""
    steps: list[SagaStepState]
    created_at: datetime
    finished_at: datetime | None


class OrderList(Answer):
    """A page of orders, newest first."""

    orders: list[Order]
    next_cursor: str | None


class VerbBody(RequestBody):
    """Why; it is recorded."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "refunded by hand, voucher 4711"}]})

    reason: Reason


class RetryBody(RequestBody):
    """A retry needs no reason."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    reason: Reason | None = None
