"""The steps of an order, and their compensations, on real tables.

Each step has an id made by the workflow. A compensation that finds nothing leaves a `cancelled` tombstone under that
id: when the step's slow INSERT comes after all, it meets the tombstone and does nothing. Every transaction moves money
between `available`, held reservations and `spent`; their sum never changes.
"""

import asyncpg
import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import from_json, to_builtins, to_json
from flotilla.contracts.event_builders import session_event, state_change
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import order_workflow_id
from flotilla.contracts.orders import OrderState, OrderStatus, order_step_id
from flotilla.contracts.requests import OrderRequest
from flotilla.contracts.session_events import AgentStateEvent, Message
from flotilla.encryption import ERASED
from flotilla.encryption.tables import ORDERS
from flotilla.eventstore.sessions import ensure_session
from flotilla.outbox import append
from flotilla.postgres import UNSTORABLE, Connection, Pool, seal_columns, tenant_transaction
from flotilla.telemetry import metrics
from workflow_worker.activities.signatures.orders import (
    APPROVE_ORDER,
    BEGIN_ORDER,
    CANCEL_ORDER,
    RECORD_ORDER,
    RELEASE_FUNDS,
    RESERVE_FUNDS,
    REVOKE_VERIFICATION,
    SEND_REJECTION_NOTIFICATION,
    VERIFY_IDENTITY,
    Confirmation,
    OrderRecord,
    OrderReference,
    OrderStep,
    Rejection,
)

SOURCE = "/workflows/OrderProcessingSaga"
log = structlog.get_logger(__name__)
_STEP_OUTCOMES = {"compensated": "done", "parked": "parked", "skipped": "skipped", "resolved": "resolved"}

# For a saga that was started without the gateway.
_INSERT_ORDER = """
INSERT INTO flotilla.orders
    (tenant_id, order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency, request)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""
_MARK_ORDER_STARTED = """
UPDATE flotilla.orders SET started_at = coalesce(started_at, now()) WHERE tenant_id = $1 AND order_id = $2
"""
_INSERT_RESERVATION = """
INSERT INTO flotilla.reservations (tenant_id, reservation_id, order_id, user_id, currency, amount_minor, status)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING reservation_id
"""
_SELECT_RESERVATION = """
SELECT status, user_id, currency, amount_minor FROM flotilla.reservations
WHERE tenant_id = $1 AND reservation_id = $2 FOR UPDATE
"""
_UPDATE_RESERVATION_STATUS = """
UPDATE flotilla.reservations SET status = $3, updated_at = now() WHERE tenant_id = $1 AND reservation_id = $2
"""
_SELECT_HELD_RESERVATION = """
SELECT reservation_id, user_id, currency, amount_minor FROM flotilla.reservations
WHERE tenant_id = $1 AND order_id = $2 AND status = $3 FOR UPDATE
"""
_DECREASE_AVAILABLE = """
UPDATE flotilla.accounts SET available_minor = available_minor - $4, updated_at = now()
WHERE tenant_id = $1 AND user_id = $2 AND currency = $3 AND available_minor >= $4
"""
_INCREASE_AVAILABLE = """
UPDATE flotilla.accounts SET available_minor = available_minor + $4, updated_at = now()
WHERE tenant_id = $1 AND user_id = $2 AND currency = $3
"""
_INCREASE_SPENT = """
UPDATE flotilla.accounts SET spent_minor = spent_minor + $4, updated_at = now()
WHERE tenant_id = $1 AND user_id = $2 AND currency = $3
"""
_SELECT_IS_VERIFIED = """
SELECT bool_and(verified) FROM flotilla.accounts WHERE tenant_id = $1 AND user_id = $2
"""
_INSERT_VERIFICATION = """
INSERT INTO flotilla.verifications (tenant_id, verification_id, order_id, user_id, status)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING verification_id
"""
_SELECT_VERIFICATION = "SELECT status FROM flotilla.verifications WHERE tenant_id = $1 AND verification_id = $2"
_REVOKE_VERIFICATION = """
UPDATE flotilla.verifications SET status = 'cancelled', updated_at = now()
WHERE tenant_id = $1 AND verification_id = $2
"""
# The row lock makes approval and cancellation of one order take turns.
_SELECT_ORDER_APPROVAL = (
    "SELECT approval, confirmation FROM flotilla.orders WHERE tenant_id = $1 AND order_id = $2 FOR UPDATE"
)
# What an approval rests on, whatever the workflow says it has done.
_SELECT_GROUNDS_FOR_APPROVAL = """
SELECT o.amount_minor = coalesce((
        SELECT sum(r.amount_minor) FROM flotilla.reservations AS r
        WHERE r.tenant_id = o.tenant_id AND r.order_id = o.order_id AND r.status = 'held'
          AND r.user_id = o.user_id AND r.currency = o.currency), 0) AS reserved,
    EXISTS (
        SELECT FROM flotilla.verifications AS v
        WHERE v.tenant_id = o.tenant_id AND v.order_id = o.order_id AND v.user_id = o.user_id
          AND v.status = 'verified') AS verified
FROM flotilla.orders AS o WHERE o.tenant_id = $1 AND o.order_id = $2
"""
_APPROVE_ORDER = """
UPDATE flotilla.orders SET approval = 'approved', confirmation = $3 WHERE tenant_id = $1 AND order_id = $2
"""
_CANCEL_ORDER_APPROVAL = """
UPDATE flotilla.orders SET approval = 'cancelled', confirmation = NULL WHERE tenant_id = $1 AND order_id = $2
"""
_RECORD_ORDER = """
UPDATE flotilla.orders SET status = $4, reason = $5, steps = $6, steps_version = $3,
    finished_at = CASE WHEN $7 THEN now() END
WHERE tenant_id = $1 AND order_id = $2 AND steps_version < $3 AND finished_at IS NULL RETURNING order_id
"""
_MARK_ORDER_NOTIFIED = """
UPDATE flotilla.orders SET notified_at = now()
WHERE tenant_id = $1 AND order_id = $2 AND notified_at IS NULL RETURNING order_id
"""
_SELECT_UNFINISHED_ORDER = """
SELECT session_id, user_id, amount_minor, currency, status, approval, steps FROM flotilla.orders
WHERE tenant_id = $1 AND order_id = $2 AND finished_at IS NULL
"""
_STEPS_DECIDED_BY_OPERATOR = ("skipped", "resolved")
"""Steps that an operator decided about: they are not undone."""
_CLOSE_LOST_ORDER = """
UPDATE flotilla.orders SET status = $3, finished_at = now()
WHERE tenant_id = $1 AND order_id = $2 AND finished_at IS NULL RETURNING session_id
"""
_STORE_ORDER_REASON = "UPDATE flotilla.orders SET reason = $3 WHERE tenant_id = $1 AND order_id = $2"


class OrderActivities:
    """The activities of `OrderProcessingSaga`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=BEGIN_ORDER)
    async def begin_order(self, order: OrderRequest) -> None:
        """Note that the saga has begun. Idempotency key: (tenant, order id)."""
        workflow_id = activity.info().workflow_id or order_workflow_id(order.tenant_id, order.order_id)
        async with tenant_transaction(self._pool, order.tenant_id) as connection:
            await ensure_session(connection, order.tenant_id, order.session_id, order.user_id)
            stored = await seal_columns(
                connection,
                order.tenant_id,
                order.session_id,
                ORDERS,
                order.order_id,
                product_id=order.product_id,
                request=to_json(order).decode(),
            )
            await connection.execute(
                _INSERT_ORDER,
                order.tenant_id,
                order.order_id,
                order.session_id,
                workflow_id,
                order.user_id,
                stored["product_id"],
                order.amount_minor,
                order.currency,
                stored["request"],
            )
            await connection.execute(_MARK_ORDER_STARTED, order.tenant_id, order.order_id)

    @activity.defn(name=RESERVE_FUNDS)
    async def reserve_funds(self, step: OrderStep) -> None:
        """Move the order's amount from the account into a reservation. Idempotency key: (tenant, step id).

        Raises:
            ApplicationError: `InsufficientFunds`, or `StepCancelled` when the compensation was quicker.
        """
        tenant_id, order = step.key.tenant_id, step.order
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if not await _insert_reservation(connection, step, order.amount_minor, "held"):
                row = await connection.fetchrow(_SELECT_RESERVATION, tenant_id, step.step_id)
                if row is None or row["status"] == "cancelled":
                    raise _step_cancelled_error(step)
                return
            took = await connection.execute(
                _DECREASE_AVAILABLE, tenant_id, order.user_id, order.currency, order.amount_minor
            )
            if took != "UPDATE 1":
                raise _non_retryable_error("InsufficientFunds", f"{order.user_id} has less than the order's amount")

    @activity.defn(name=RELEASE_FUNDS)
    async def release_funds(self, step: OrderStep) -> None:
        """Give a reservation's money back, once; leave a tombstone if there is none (yet)."""
        tenant_id = step.key.tenant_id
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if await _insert_reservation(connection, step, 0, "cancelled"):
                return
            row = await connection.fetchrow(_SELECT_RESERVATION, tenant_id, step.step_id)
            if row is not None and row["status"] == "held":
                await connection.execute(_UPDATE_RESERVATION_STATUS, tenant_id, step.step_id, "cancelled")
                await connection.execute(
                    _INCREASE_AVAILABLE, tenant_id, row["user_id"], row["currency"], row["amount_minor"]
                )

    @activity.defn(name=VERIFY_IDENTITY)
    async def verify_identity(self, step: OrderStep) -> None:
        """Records that the customer is who he says he is. Idempotency key: (tenant, step id).

        Raises:
            ApplicationError: `IdentityNotVerified`, or `StepCancelled` when the compensation was quicker.
        """
        tenant_id, user_id = step.key.tenant_id, step.order.user_id
        async with tenant_transaction(self._pool, tenant_id) as connection:
            if not await connection.fetchval(_SELECT_IS_VERIFIED, tenant_id, user_id):
                raise _non_retryable_error("IdentityNotVerified", f"the identity of {user_id} is not verified")
            if not await _insert_verification(connection, step, "verified"):
                row = await connection.fetchrow(_SELECT_VERIFICATION, tenant_id, step.step_id)
                if row is None or row["status"] == "cancelled":
                    raise _step_cancelled_error(step)

    @activity.defn(name=REVOKE_VERIFICATION)
    async def revoke_verification(self, step: OrderStep) -> None:
        """Take a verification back, once; leave a tombstone if there is none (yet)."""
        async with tenant_transaction(self._pool, step.key.tenant_id) as connection:
            if not await _insert_verification(connection, step, "cancelled"):
                await connection.execute(_REVOKE_VERIFICATION, step.key.tenant_id, step.step_id)

    @activity.defn(name=APPROVE_ORDER)
    async def approve_order(self, step: OrderStep) -> Confirmation:
        """Spend the reserved money and confirm the order, in one transaction. Idempotency key: (tenant, order id).

        Raises:
            ApplicationError: `StepCancelled` when the compensation was quicker; `NotReserved` or `NotVerified` when the
                order's whole amount is not held for it, or its customer's identity is not verified.
        """
        key = step.key
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_ORDER_APPROVAL, key.tenant_id, key.order_id)
            if row is None or row["approval"] == "cancelled":
                raise _step_cancelled_error(step)
            if row["approval"] == "approved":
                return Confirmation(number=row["confirmation"])
            await _check_grounds_for_approval(connection, key)
            await _move_order_money(connection, key, "held", "captured", 1)
            number = f"C-{step.step_id.partition(':')[2]}"
            await connection.execute(_APPROVE_ORDER, key.tenant_id, key.order_id, number)
        return Confirmation(number=number)

    @activity.defn(name=CANCEL_ORDER)
    async def cancel_order(self, step: OrderStep) -> None:
        """Take an approval back, or forbid the one that may still come; spent money is held again."""
        key = step.key
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_ORDER_APPROVAL, key.tenant_id, key.order_id)
            if row is not None and row["approval"] == "approved":
                await _move_order_money(connection, key, "captured", "held", -1)
            await connection.execute(_CANCEL_ORDER_APPROVAL, key.tenant_id, key.order_id)

    @activity.defn(name=SEND_REJECTION_NOTIFICATION)
    async def send_rejection_notification(self, rejection: Rejection) -> None:
        """Tell the customer, in the order's session. Idempotency key: (tenant, order id)."""
        key = rejection.key
        message = Message(role="system", content=f"Order {key.order_id} was rejected: {rejection.reason}")
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            if await connection.fetchval(_MARK_ORDER_NOTIFIED, key.tenant_id, key.order_id) is not None:
                await append(connection, key.tenant_id, key.session_id, [session_event(message, SOURCE)])

    @activity.defn(name=RECORD_ORDER)
    async def record_order(self, record: OrderRecord) -> None:
        """Show the saga's state in the order's row and log. Idempotency key: (tenant, order id, version)."""
        key, state = record.key, record.state
        async with tenant_transaction(self._pool, key.tenant_id) as connection:
            stored = await seal_columns(
                connection,
                key.tenant_id,
                key.session_id,
                ORDERS,
                key.order_id,
                reason=state.reason,
                steps=to_json(state.steps).decode(),
            )
            newer = await connection.fetchval(
                _RECORD_ORDER,
                key.tenant_id,
                key.order_id,
                record.version,
                state.status,
                stored["reason"],
                stored["steps"],
                record.final,
            )
            if newer is None:
                return
            await append(connection, key.tenant_id, key.session_id, [_order_change_event(record)])
        if record.step is not None and record.step.status in _STEP_OUTCOMES:
            metrics.SAGA_COMPENSATIONS.labels(_STEP_OUTCOMES[record.step.status]).inc()

    async def close_lost_order(self, tenant_id: str, order_id: str, why: str) -> None:
        """Close an order whose workflow is gone: what it left undone, a person must see to."""
        await self._close_order_row(tenant_id, order_id, "compensation_failed", "order_lost", why)

    async def undo_lost_order(self, tenant_id: str, order_id: str, why: str) -> None:
        """Close an order whose workflow is gone and can't be read: as approved if it was, else with all undone that
        nobody has undone yet. Where a compensation can never succeed, as `close_lost_order`. Safe to repeat."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(_SELECT_UNFINISHED_ORDER, tenant_id, order_id)
        if row is None:
            return
        if row["approval"] == "approved" and row["status"] == "pending":
            await self._close_order_row(tenant_id, order_id, "approved", "order_approved", why)
            return
        try:
            await self._compensate_lost_order(tenant_id, order_id, row)
        except (asyncpg.IntegrityConstraintViolationError, *UNSTORABLE):
            log.exception("order_not_undone", order_id=order_id, tenant=tenant_id)
            await self.close_lost_order(tenant_id, order_id, why)
        else:
            await self._close_order_row(tenant_id, order_id, "rejected", "order_rejected", why)

    async def _compensate_lost_order(self, tenant_id: str, order_id: str, row: asyncpg.Record) -> None:
        order = OrderRequest(
            order_id=order_id,
            user_id=row["user_id"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            product_id=ERASED,
            tenant_id=tenant_id,
            session_id=row["session_id"],
        )
        key = OrderReference(tenant_id=tenant_id, order_id=order_id, session_id=order.session_id)
        seen_to = {
            step["name"] for step in from_json(row["steps"], list) if step["status"] in _STEPS_DECIDED_BY_OPERATOR
        }
        for step, compensate in (
            (APPROVE_ORDER, self.cancel_order),
            (VERIFY_IDENTITY, self.revoke_verification),
            (RESERVE_FUNDS, self.release_funds),
        ):
            if step not in seen_to:
                await compensate(OrderStep(key=key, step_id=order_step_id(step, order_id), order=order))

    async def _close_order_row(self, tenant_id: str, order_id: str, status: OrderStatus, change: str, why: str) -> None:
        async with tenant_transaction(self._pool, tenant_id) as connection:
            session_id = await connection.fetchval(_CLOSE_LOST_ORDER, tenant_id, order_id, status)
            if session_id is not None:
                stored = await seal_columns(connection, tenant_id, session_id, ORDERS, order_id, reason=why)
                await connection.execute(_STORE_ORDER_REASON, tenant_id, order_id, stored["reason"])
                details: JsonObject = {"order_id": order_id, "status": status, "reason": why}
                await append(connection, tenant_id, session_id, [state_change(change, details, SOURCE)])


async def _insert_reservation(connection: Connection, step: OrderStep, amount_minor: int, status: str) -> bool:
    order = step.order
    added = await connection.fetchval(
        _INSERT_RESERVATION,
        step.key.tenant_id,
        step.step_id,
        order.order_id,
        order.user_id,
        order.currency,
        amount_minor,
        status,
    )
    return added is not None


async def _insert_verification(connection: Connection, step: OrderStep, status: str) -> bool:
    order = step.order
    added = await connection.fetchval(
        _INSERT_VERIFICATION, step.key.tenant_id, step.step_id, order.order_id, order.user_id, status
    )
    return added is not None


async def _check_grounds_for_approval(connection: Connection, key: OrderReference) -> None:
    grounds = await connection.fetchrow(_SELECT_GROUNDS_FOR_APPROVAL, key.tenant_id, key.order_id)
    if grounds is None or not grounds["reserved"]:
        raise _non_retryable_error("NotReserved", f"order {key.order_id}: its amount is not reserved")
    if not grounds["verified"]:
        raise _non_retryable_error("NotVerified", f"order {key.order_id}: its customer's identity is not verified")


async def _move_order_money(connection: Connection, key: OrderReference, before: str, after: str, sign: int) -> None:
    """Move the order's money between held and spent."""
    for row in await connection.fetch(_SELECT_HELD_RESERVATION, key.tenant_id, key.order_id, before):
        await connection.execute(_UPDATE_RESERVATION_STATUS, key.tenant_id, row["reservation_id"], after)
        amount = sign * row["amount_minor"]
        await connection.execute(_INCREASE_SPENT, key.tenant_id, row["user_id"], row["currency"], amount)


def _order_change_event(record: OrderRecord) -> AgentStateEvent:
    state: OrderState = record.state
    details: dict[str, object] = {"order_id": record.key.order_id, "status": state.status, "reason": state.reason}
    if record.step is not None:
        details["step"] = record.step
    if record.verb is not None:
        details["operator"] = record.verb
    return state_change(record.change, to_builtins(details), SOURCE)


def _non_retryable_error(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


def _step_cancelled_error(step: OrderStep) -> ApplicationError:
    return _non_retryable_error("StepCancelled", f"step {step.step_id} was cancelled before it came to anything")
