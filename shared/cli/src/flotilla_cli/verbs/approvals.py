"""`flotilla approvals`: the inbox of those who decide."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import Column, age, print_fields, shorten
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

app = new_app("Approvals: the inbox of those who decide. Nobody approves their own request.")
ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="The approval's id.", show_default=False)]
Seen = Annotated[
    str | None,
    typer.Option(
        "--content-hash",
        metavar="SHA256",
        help="Decide only if exactly this will be executed (from show). Default: what it is now.",
        show_default=False,
    ),
]


@verb(app, "list", epilog=examples("flotilla approvals list", "flotilla approvals list --status approved -o json"))
def list_approvals(
    call: Call,
    status: Annotated[
        str, typer.Option("--status", help="pending, approved, rejected, timeout, cancelled or all.")
    ] = "pending",
    limit: Limit = 50,
) -> None:
    """List what waits for a decision."""
    wanted = None if status == "all" else status
    page = call.gateway.pages("/approvals", "approvals", limit, status=wanted)
    call.listing(page, "approvals", _APPROVALS, "Nothing waits for a decision." if status == "pending" else "None.")


_APPROVALS = (
    Column("approval", "approval_id"),
    Column("action", "action"),
    Column("description", lambda approval: shorten(approval.get("description", ""), 50)),
    Column("risk", "risk_level"),
    Column("requested by", "requested_by"),
    Column("status", "status"),
    Column("deadline", lambda approval: age(deadline_of(approval))),
)


def deadline_of(approval: Any) -> Any:
    """When it is too late to decide."""
    return approval.get("deadline_at") or approval.get("deadline")


@verb(app, "show", epilog=examples("flotilla approvals show 0197…"))
def show_approval(call: Call, approval_id: ApprovalId) -> None:
    """Show exactly what will be executed, its risk and why, who asks, the deadline and the votes."""
    approval = call.gateway.get(f"/approvals/{approval_id}")
    call.show(approval, lambda: _print_approval(approval))


def _print_approval(approval: dict[str, Any]) -> None:
    from flotilla_cli.verbs.actions import print_votes

    print_fields({name: value for name, value in approval.items() if name not in ("votes", "args_schema")})
    print_votes(approval.get("votes") or [])


@verb(
    app,
    "approve",
    epilog=examples("flotilla approvals approve 0197… --as bob", 'flotilla approvals approve 0197… --reason "checked"'),
)
def approve(
    call: Call,
    approval_id: ApprovalId,
    reason: Annotated[str | None, typer.Option("--reason", help="For the record.")] = None,
    content_hash: Seen = None,
) -> None:
    """Let the action run, as it is."""
    _decide(call, approval_id, {"decision": "approve", "reason": reason}, content_hash)


@verb(app, "reject", epilog=examples('flotilla approvals reject 0197… --reason "wrong recipient"'))
def reject(
    call: Call,
    approval_id: ApprovalId,
    reason: Annotated[str, typer.Option("--reason", help="For the record and the requester.")],
    content_hash: Seen = None,
) -> None:
    """Refuse the action; it will never run."""
    _decide(call, approval_id, {"decision": "reject", "reason": reason}, content_hash)


@verb(app, "edit", epilog=examples("flotilla approvals edit 0197… --arg text=better"))
def edit(
    call: Call,
    approval_id: ApprovalId,
    arg: Annotated[
        list[str], typer.Option("--arg", metavar="K=V", help="A new value, repeatable; V may be JSON: n=3, s='\"3\"'.")
    ],
    reason: Annotated[str | None, typer.Option("--reason", help="For the record.")] = None,
    content_hash: Seen = None,
) -> None:
    """Change arguments of the action; the others stay. The edited action needs an approval by another person."""
    from flotilla_cli.arguments import read_pairs

    approval = call.gateway.get(f"/approvals/{approval_id}")
    arguments = {**(approval.get("args") or {}), **read_pairs(arg)}
    body = {"decision": "edit", "reason": reason, "args": arguments}
    _decide(call, approval_id, body, content_hash or approval["content_hash"])


def _decide(call: Call, approval_id: str, body: dict[str, Any], content_hash: str | None) -> None:
    seen = content_hash or call.gateway.get(f"/approvals/{approval_id}")["content_hash"]
    given = {name: value for name, value in body.items() if value is not None}
    answer = call.gateway.post(f"/approvals/{approval_id}/decision", {**given, "content_hash": seen})
    call.show(answer, lambda: print_fields(answer))
