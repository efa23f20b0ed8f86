"""`flotilla privacy`: erase a person's data, and keep it from being erased."""

from typing import Annotated

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import TableColumn, age, print_fields, print_notice
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Privacy: erase what is encrypted of a person, with a second person's confirmation; legal holds.")
holds = new_verb_group("Legal holds: while there is one, erasures of that person are refused.")
app.add_typer(holds, name="holds")
Subject = Annotated[str, typer.Option("--subject", metavar="U", help="The person.", show_default=False)]
Issuer = Annotated[str, typer.Option("--issuer", help="Who says that it is that person; flotilla for API keys.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="R", help="Kept with it; no personal data.")]
ErasureId = Annotated[str, typer.Argument(metavar="ID", help="The erasure's id.", show_default=False)]


@verb(
    app,
    "erase",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla privacy erase --subject ada --dry-run",
        "flotilla privacy erase --subject ada --reason 'request 2031-17'",
    ),
)
def erase(
    call: VerbCall,
    *,
    subject: Subject,
    issuer: Issuer = "flotilla",
    reason: ReasonOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would reach.")] = False,
) -> None:
    """Ask for the erasure of a person. It happens when a second person confirms it."""
    if dry_run:
        plan = call.gateway.get("/privacy/plan", subject=subject, issuer=issuer)
        call.show(plan, lambda: print_fields(plan))
        return
    erasure = call.gateway.post("/privacy/erasures", _body(subject, issuer, reason))
    call.show(erasure, lambda: print_fields(erasure))
    print_notice(f"A second person confirms it: flotilla privacy confirm {erasure['erasure_id']}", style=None)


@verb(app, "confirm", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy confirm 0197… --as bob"))
def confirm(call: VerbCall, erasure_id: ErasureId) -> None:
    """Confirm the erasure that somebody else asked for. The key is destroyed at once; nobody can undo it."""
    erasure = call.gateway.post(f"/privacy/erasures/{erasure_id}/confirm")
    call.show(erasure, lambda: print_fields(erasure))


@verb(app, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy list"))
def list_erasures(call: VerbCall, *, limit: Limit = 50) -> None:
    """List the erasures, newest first."""
    page = call.gateway.get("/privacy/erasures", limit=limit)
    call.print_listing(page, "erasures", _ERASURES, "No erasures.")


@verb(app, "show", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy show 0197…"))
def show_erasure(call: VerbCall, erasure_id: ErasureId) -> None:
    """Show an erasure, and whether it is finished."""
    erasure = call.gateway.get(f"/privacy/erasures/{erasure_id}")
    call.show(erasure, lambda: print_fields(erasure))


@verb(holds, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy holds list"))
def list_holds(call: VerbCall) -> None:
    """List the legal holds."""
    call.print_listing(call.gateway.get("/privacy/holds"), "holds", _HOLDS, "No legal holds.")


@verb(
    holds,
    "add",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla privacy holds add --subject ada --reason 'case 4 O 17/31'"),
)
def add_hold(call: VerbCall, *, subject: Subject, issuer: Issuer = "flotilla", reason: ReasonOption = None) -> None:
    """Refuse erasures of a person, with this reason."""
    hold = call.gateway.post("/privacy/holds", _body(subject, issuer, reason))
    call.show(hold, lambda: print_fields(hold))


@verb(holds, "remove", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy holds remove --subject ada"))
def remove_hold(call: VerbCall, *, subject: Subject, issuer: Issuer = "flotilla") -> None:
    """Allow erasures of a person again."""
    call.gateway.delete("/privacy/holds", subject=subject, issuer=issuer)
    call.show({"removed": subject}, lambda: print_notice(f"{subject} is under no legal hold.", style=None))


def _body(subject: str, issuer: str, reason: str | None) -> dict[str, str]:
    if not reason:
        raise Misuse("a reason is required: --reason R")
    return {"subject": subject, "issuer": issuer, "reason": reason}


_ERASURES = (
    TableColumn("erasure", "erasure_id"),
    TableColumn("person", "person"),
    TableColumn("asked by", "requested_by"),
    TableColumn("confirmed by", "confirmed_by"),
    TableColumn("finished", lambda erasure: age(erasure.get("finished_at"))),
    TableColumn("reason", "reason"),
)
_HOLDS = (
    TableColumn("person", "person"),
    TableColumn("reason", "reason"),
    TableColumn("added by", "added_by"),
    TableColumn("added", lambda hold: age(hold.get("added_at"))),
)
