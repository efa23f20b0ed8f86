"""`flotilla orders`: orders, and what an operator does about parked compensations."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, print_table, say
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Orders: a saga each. What could not be undone is parked until an operator decides.")
OrderId = Annotated[str, typer.Argument(metavar="O", help="The order's id.", show_default=False)]
Step = Annotated[str, typer.Argument(metavar="STEP", help="The step's number, from orders get.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded.")]


@verb(
    app,
    "place",
    epilog=examples_epilog("flotilla orders place --order-id o-17 --user alice --amount 12.50 --product p-1"),
)
def place_order(
    call: VerbCall,
    *,
    order_id: Annotated[str, typer.Option("--order-id", help="The order's id; placing it again does nothing.")],
    user: Annotated[str, typer.Option("--user", help="Who pays.")],
    amount: Annotated[str, typer.Option("--amount", help="Decimal, like 12.50.")],
    product: Annotated[str, typer.Option("--product", help="The product's id.")],
    currency: Annotated[str | None, typer.Option("--currency", help="ISO 4217. Default: EUR.")] = None,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="The session that records it. Default: one of its own.")
    ] = None,
) -> None:
    """Place an order: reserve the funds, verify the buyer, approve; or undo all of it."""
    from flotilla_cli.arguments import parse_amount

    body = {"order_id": order_id, "user_id": user, "amount": parse_amount(amount), "product_id": product}
    optional = {"currency": currency, "session_id": session}
    answer = call.gateway.post("/orders", {**body, **{k: v for k, v in optional.items() if v is not None}})
    call.show(answer, lambda: _print_placed(answer))


def _print_placed(answer: dict[str, Any]) -> None:
    print_fields(answer)
    print_notice(f"Its progress: flotilla orders get {answer['order_id']}")


@verb(app, "get", epilog=examples_epilog("flotilla orders get o-17"))
def get_order(call: VerbCall, order_id: OrderId) -> None:
    """Show an order: its status, confirmation or reason, and each step."""
    order = call.gateway.get(f"/orders/{order_id}")
    call.show(order, lambda: _print_order(order))


def _print_order(order: dict[str, Any]) -> None:
    print_fields({name: value for name, value in order.items() if name != "steps"})
    if order.get("steps"):
        say()
        print_table(order["steps"], _STEPS, "")


_STEPS = (
    TableColumn("step", "number", "right"),
    TableColumn("name", "name"),
    TableColumn("status", "status"),
    TableColumn("undone by", "compensation"),
    TableColumn("error", "error"),
)


@verb(
    app,
    "list",
    epilog=examples_epilog("flotilla orders list", "flotilla orders list --status compensation_failed -o json"),
)
def list_orders(
    call: VerbCall,
    status: Annotated[
        str | None, typer.Option("--status", help="Only these: pending, approved, rejected, compensation_failed.")
    ] = None,
    limit: Limit = 50,
) -> None:
    """List orders, newest first."""
    page = call.gateway.list_all_pages("/orders", "orders", limit, status=status)
    call.print_listing(page, "orders", _ORDERS, "No order.")


_ORDERS = (
    TableColumn("order", "order_id"),
    TableColumn("user", "user_id"),
    TableColumn("amount", "amount", "right"),
    TableColumn("currency", "currency"),
    TableColumn("product", "product_id"),
    TableColumn("status", "status"),
    TableColumn("created", lambda order: age(order.get("created_at"))),
)


@verb(app, "retry", epilog=examples_epilog("flotilla orders retry o-17 1"))
def retry_step(call: VerbCall, order_id: OrderId, step: Step) -> None:
    """Run a parked compensation again."""
    _operate(call, order_id, step, "retry", {})


@verb(app, "skip", epilog=examples_epilog('flotilla orders skip o-17 1 --reason "account was closed"'))
def skip_step(call: VerbCall, order_id: OrderId, step: Step, reason: Reason) -> None:
    """Give a parked compensation up."""
    _operate(call, order_id, step, "skip", {"reason": reason})


@verb(
    app, "resolve", epilog=examples_epilog('flotilla orders resolve o-17 1 --reason "refunded by hand, voucher 4711"')
)
def resolve_step(call: VerbCall, order_id: OrderId, step: Step, reason: Reason) -> None:
    """Record that a parked compensation was done by hand."""
    _operate(call, order_id, step, "resolve", {"reason": reason})


def _operate(call: VerbCall, order_id: str, step: str, what: str, body: dict[str, Any]) -> None:
    answer = call.gateway.post(f"/orders/{order_id}/steps/{step}/{what}", body)
    call.show(answer, lambda: _print_order(answer))
