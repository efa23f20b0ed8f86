"""Orders on real tables, with a worker that fails on request."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.contracts.names import ORDER_WORKFLOW, order_workflow_id
from flotilla.contracts.orders import SAGA_VERB_UPDATE, OperatorVerb, OrderState, Verb
from flotilla.contracts.requests import OrderRequest
from flotilla.postgres import Pool, tenant_transaction
from workflow_worker.activities.orders import OrderActivities
from workflow_worker.settings import Settings
from workflow_worker.temporal import list_activity_methods_of, make_worker
from workflow_worker.workflows.order import OrderProcessingSaga

BALANCE = 10_000
ADD_ACCOUNT = """
INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor, verified)
VALUES ('acme', $1, 'EUR', $2, $3)
"""
MONEY = """
SELECT (SELECT coalesce(sum(available_minor + spent_minor), 0) FROM flotilla.accounts)
     + (SELECT coalesce(sum(amount_minor), 0) FROM flotilla.reservations WHERE status = 'held') AS total,
       (SELECT coalesce(sum(spent_minor), 0) FROM flotilla.accounts) AS spent,
       (SELECT coalesce(sum(amount_minor), 0) FROM flotilla.reservations WHERE status = 'held') AS held
"""


@dataclass
class Faults:
    """Where activities fail: `reserve_funds:before`, `approve_order:after`, `release_funds:always`."""

    at: set[str] = field(default_factory=set)
    pauses: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Activities whose function returned or raised, whether or not the workflow still listened."""

    async def meet(self, point: str, _order_id: str) -> None:
        """Called at each point of each order."""
        self.reached.add(point)
        if point in self.pauses:
            await self.pauses[point].wait()
        if point in self.at:
            raise ApplicationError(f"injected at {point}", type="Injected", non_retryable=True)


def faulty(method: Callable[..., Any], faults: Faults) -> Callable[..., Any]:
    """The same activity, with points before and after its effect."""
    definition = activity._Definition.must_from_callable(method)
    name = str(definition.name)
    [argument] = definition.arg_types or []

    async def run(message: Any) -> Any:
        order_id = (message.key if hasattr(message, "key") else message).order_id
        faults.calls.append(name)
        try:
            await faults.meet(f"{name}:before", order_id)
            result = await method(message)
            await faults.meet(f"{name}:after", order_id)
        finally:
            faults.ended.append(name)
        return result

    run.__annotations__ = {"message": argument, "return": definition.ret_type}
    return activity.defn(name=name)(run)


@dataclass
class Shop:
    """One worker and its database."""

    client: Client
    pool: Pool
    task_queue: str
    faults: Faults

    async def add_account(self, user_id: str = "alice", available: int = BALANCE, *, verified: bool = True) -> None:
        async with tenant_transaction(self.pool, "acme") as connection:
            await connection.execute(ADD_ACCOUNT, user_id, available, verified)

    async def place(self, order_id: str, amount_minor: int = 2_500) -> WorkflowHandle[Any, OrderState]:
        order = OrderRequest(
            order_id=order_id, user_id="alice", amount_minor=amount_minor, product_id="rope", tenant_id="acme"
        )
        return await self.client.start_workflow(
            ORDER_WORKFLOW,
            order,
            id=order_workflow_id("acme", f"{self.task_queue}-{order_id}"),
            task_queue=self.task_queue,
            result_type=OrderState,
        )

    async def operate(
        self, handle: WorkflowHandle[Any, OrderState], step: str, verb: Verb, reason: str | None = None
    ) -> OrderState:
        state: OrderState = await handle.execute_update(
            SAGA_VERB_UPDATE,
            OperatorVerb(step=step, verb=verb, subject="olga", reason=reason),
            result_type=OrderState,
        )
        return state

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with tenant_transaction(self.pool, "acme") as connection:
            return await connection.fetch(query, *arguments)

    async def order(self, order_id: str) -> asyncpg.Record:
        return (await self.rows("SELECT * FROM flotilla.orders WHERE order_id = $1", order_id))[0]

    async def money(self) -> tuple[int, int, int]:
        """Total, spent and held, over all accounts and reservations."""
        [row] = await self.rows(MONEY)
        return int(row["total"]), int(row["spent"]), int(row["held"])

    async def events(self, session_id: str) -> list[AgentEvent]:
        query = "SELECT body FROM flotilla.event_outbox WHERE session_id = $1 ORDER BY seq"
        return [decode_event(row["body"]) for row in await self.rows(query, session_id)]

    async def is_parked(self, order_id: str) -> bool:
        rows = await self.rows("SELECT status FROM flotilla.orders WHERE order_id = $1", order_id)
        return bool(rows) and rows[0]["status"] == "compensation_failed"


@asynccontextmanager
async def open_shop(client: Client, pool: Pool, task_queue: str, faults: Faults | None = None) -> AsyncIterator[Shop]:
    """A worker that does nothing but orders."""
    settings = Settings(
        postgres_dsn="postgresql://unused",  # type: ignore[arg-type]
        redis_url="redis://unused",  # type: ignore[arg-type]
        temporal_address="unused",
        task_queue=task_queue,
        ticket_key_file=Path("unused"),
        drain_s=0.1,
    )
    faults = faults or Faults()
    methods = [faulty(method, faults) for method in list_activity_methods_of(OrderActivities(pool))]
    worker = make_worker(client, settings, "shop", workflows=[OrderProcessingSaga], activities=methods)
    async with worker:
        yield Shop(client, pool, task_queue, faults)
