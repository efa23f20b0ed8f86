"""`flotilla privacy`: export and erase a person's data, and keep it from being erased."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import OutputFormat, TableColumn, age, print_fields, print_json, print_notice
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, Output, VerbCall, examples_epilog, new_verb_group, verb
from flotilla_cli.verbs.local import State
from flotilla_cli.writing import new_file

app = new_verb_group("Privacy: export and erase what is held on a person, confirmed by further people; legal holds.")
holds = new_verb_group("Legal holds: while there is one, erasures of that person are refused.")
app.add_typer(holds, name="holds")
retention = new_verb_group("Retention: for how many days what is over is kept. By default it is kept for good.")
app.add_typer(retention, name="retention")
Subject = Annotated[str, typer.Option("--subject", metavar="U", help="The person.", show_default=False)]
Issuer = Annotated[str, typer.Option("--issuer", help="Who says that it is that person; flotilla for API keys.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="R", help="Kept with it; no personal data.")]


class RetentionKind(StrEnum):
    """What is deleted by age."""

    SESSIONS = "sessions"
    RUNS = "runs"
    MODEL_CALLS = "model_calls"
    DOCUMENTS = "documents"
    DEAD_LETTERS = "dead_letters"
    MCP_CALLS = "mcp_calls"


Kind = Annotated[RetentionKind, typer.Option("--kind", help="What is deleted.", show_default=False)]
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, help="Kept for so many days.", show_default=False)]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The request's id.", show_default=False)]


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
    """Ask for the erasure of a person. It happens when as many further people as the policy says confirm it."""
    if dry_run:
        plan = call.gateway.get("/privacy/plan", subject=subject, issuer=issuer)
        call.show(plan, lambda: print_fields(plan))
        return
    erasure = call.gateway.post("/privacy/erasures", _body(subject, issuer, reason))
    call.show(erasure, lambda: print_fields(erasure))
    print_notice(f"A further person confirms it: flotilla privacy confirm {erasure['erasure_id']}", style=None)


@verb(
    app,
    "export",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla privacy export --subject ada --reason 'request 2031-18'",
        "flotilla privacy export --request 0197… --to ada.zip",
    ),
)
def export(
    call: VerbCall,
    *,
    subject: Annotated[str | None, typer.Option("--subject", metavar="U", help="The person.")] = None,
    issuer: Issuer = "flotilla",
    reason: ReasonOption = None,
    request: Annotated[str | None, typer.Option("--request", metavar="ID", help="Fetch what you asked for.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where to write the archive.")] = None,
) -> None:
    """Ask for all that the fleet holds on a person, or fetch it once further people have confirmed it."""
    if request is not None and to is not None and subject is None:
        with new_file(to, private=True) as file:
            file.writelines(call.gateway.download_chunks(f"/privacy/exports/{request}/archive"))
        call.show({"written": str(to)}, lambda: print_notice(f"Written to {to}."))
        return
    if subject is None or request is not None or to is not None:
        raise Misuse("either ask for an export with --subject U --reason R, or fetch it with --request ID --to FILE")
    asked = call.gateway.post("/privacy/exports", _body(subject, issuer, reason))
    call.show(asked, lambda: print_fields(asked))
    waits = "" if asked["confirmed_at"] else "once a further person has confirmed it "
    print_notice(f"Fetch it {waits}with: flotilla privacy export --request {asked['request_id']} --to FILE", style=None)


@verb(app, "confirm", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy confirm 0197… --as bob"))
def confirm(call: VerbCall, request_id: RequestId) -> None:
    """Confirm what somebody else asked for. With the last confirmation of an erasure the key is destroyed for good."""
    request = call.gateway.post(f"/privacy/requests/{request_id}/confirm")
    call.show(request, lambda: print_fields(request))


@verb(app, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy list"))
def list_requests(call: VerbCall, *, limit: Limit = 50) -> None:
    """List erasures, exports and changes of retention, newest first."""
    page = call.gateway.get("/privacy/requests", limit=limit)
    call.print_listing(page, "requests", _REQUESTS, "Nothing was asked for.")


@verb(app, "show", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy show 0197…"))
def show_request(call: VerbCall, request_id: RequestId) -> None:
    """Show a request: who confirmed it, and whether it is finished."""
    request = call.gateway.get(f"/privacy/requests/{request_id}")
    call.show(request, lambda: print_fields(request))


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


@verb(retention, "show", acts_as=ADMIN, epilog=examples_epilog("flotilla privacy retention show"))
def show_retention(call: VerbCall) -> None:
    """Show for how many days the tenant keeps what is over, by kind."""
    call.print_listing(call.gateway.get("/privacy/retention"), "policies", _POLICIES, "No policies.")


@verb(
    retention,
    "plan",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla privacy retention plan --kind sessions --days 365"),
)
def plan_retention(call: VerbCall, *, kind: Kind, days: Days) -> None:
    """Show what a policy would delete now. Nothing is changed."""
    plan = call.gateway.get("/privacy/retention/plan", kind=kind, days=days)
    call.show(plan, lambda: print_fields(plan))


@verb(
    retention,
    "set",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla privacy retention set --kind sessions --days 365 --reason 'data policy of 2031'",
        "flotilla privacy retention set --kind runs --for-good --reason 'case 4 O 17/31'",
    ),
)
def set_retention(
    call: VerbCall,
    *,
    kind: Kind,
    days: Annotated[int | None, typer.Option("--days", metavar="N", min=1, help="Kept for so many days.")] = None,
    for_good: Annotated[bool, typer.Option("--for-good", help="Delete nothing of this kind by age.")] = False,
    reason: ReasonOption = None,
) -> None:
    """Ask for another policy. It counts once further people have confirmed it."""
    if (days is None) != for_good or not reason:
        raise Misuse("say for how long, and why: --days N or --for-good, and --reason R")
    asked = call.gateway.post("/privacy/retention", {"kind": kind, "days": days, "reason": reason})
    call.show(asked, lambda: print_fields(asked))
    if not asked["confirmed_at"]:
        print_notice(f"A further person confirms it: flotilla privacy confirm {asked['request_id']}", style=None)


@app.command(
    "rotate-root",
    help="Wrap all tenants' keys by the first root key of the file, so that the others can be removed from it.\n\n"
    "Put a new key in front with python -m flotilla.encryption new-root FILE, give the file to all services, then call "
    "this as the role that installs the fleet (FLOTILLA_POSTGRES_DSN; by default the local stack's).",
    epilog=examples_epilog("flotilla privacy rotate-root --key-file root.keys"),
)
def rotate_root(
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            envvar="FLOTILLA_ENCRYPTION_KEY_FILE",
            help="The root keys; with another provider in the environment, those from before it.",
            show_default=False,
        ),
    ] = None,
    state: State = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Wrap all tenants' keys by the first root key of the file."""
    from flotilla_cli.local.root_keys import rotate_root as rotate

    rotated = rotate(key_file, state)
    if output is OutputFormat.JSON:
        print_json(rotated)
        return
    print_fields(rotated)
    print_notice(
        "No tenant's key is wrapped by another one: backups from before still are, so keep the others for them."
    )


def _confirmations(request: Mapping[str, Any]) -> str:
    """Who confirmed it, and how many of how many."""
    people = request["confirmations"]
    return " ".join([f"{len(people)}/{request['confirmations_needed']}", *people])


def _body(subject: str, issuer: str, reason: str | None) -> dict[str, str]:
    if not reason:
        raise Misuse("a reason is required: --reason R")
    return {"subject": subject, "issuer": issuer, "reason": reason}


_REQUESTS = (
    TableColumn("request", "request_id"),
    TableColumn("kind", "kind"),
    TableColumn("person", "person"),
    TableColumn("asked by", "requested_by"),
    TableColumn("confirmed by", _confirmations),
    TableColumn("finished", lambda request: age(request.get("finished_at"))),
    TableColumn("reason", "reason"),
)
_POLICIES = (
    TableColumn("kind", "kind"),
    TableColumn("days", lambda policy: policy["days"] or "for good"),
    TableColumn("changed", lambda policy: age(policy.get("changed_at"))),
    TableColumn("request", "request_id"),
)
_HOLDS = (
    TableColumn("person", "person"),
    TableColumn("reason", "reason"),
    TableColumn("added by", "added_by"),
    TableColumn("added", lambda hold: age(hold.get("added_at"))),
)
