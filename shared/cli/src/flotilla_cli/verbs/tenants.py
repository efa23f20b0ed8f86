"""`flotilla tenants`: tenants of the fleet, for its operators."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from flotilla_cli.errors import Misuse
from flotilla_cli.printing import OutputFormat, TableColumn, age, print_fields, print_json, print_notice
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, Output, VerbCall, docstring_as_help, examples_epilog, new_verb_group, verb
from flotilla_cli.verbs.backup import Passphrase, PublicKey
from flotilla_cli.verbs.local import State

F = TypeVar("F", bound=Callable[..., None])
app = new_verb_group("Tenants, for the operators of the fleet: create, suspend, resume, move and delete them.")
TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.", show_default=False)]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="R", help="Recorded, and shown to operators.")]


@verb(app, "create", acts_as=ADMIN, epilog=examples_epilog("flotilla tenants create initech --admin peter"))
def create(
    call: VerbCall,
    *,
    tenant_id: TenantId,
    admin: Annotated[str, typer.Option("--admin", metavar="NAME", help="The person who administers it.")],
    note: Annotated[str, typer.Option("--note", help="For operators: who it is, and who pays.")] = "",
) -> None:
    """Create a tenant, with a key for the person who administers it."""
    tenant = call.gateway.post("/tenants", {"tenant_id": tenant_id, "admin": admin, "note": note})
    call.show(tenant, lambda: print_fields({**tenant, "admin_key": tenant["admin_key"]["key"]}))
    print_notice("The key is shown once: hand it over now.", style=None)


@verb(app, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla tenants list"))
def list_tenants(call: VerbCall, *, limit: Limit = 50) -> None:
    """List the tenants, by name."""
    page = call.gateway.get("/tenants", limit=limit)
    call.print_listing(page, "tenants", _TENANTS, "No tenants.")


@verb(app, "show", acts_as=ADMIN, epilog=examples_epilog("flotilla tenants show initech"))
def show(call: VerbCall, tenant_id: TenantId) -> None:
    """Show a tenant: its state, and how much of it there is."""
    tenant = call.gateway.get(f"/tenants/{tenant_id}")
    call.show(tenant, lambda: print_fields(tenant))


@verb(
    app,
    "suspend",
    acts_as=ADMIN,
    epilog=examples_epilog("flotilla tenants suspend initech --reason 'contract 4711 has ended'"),
)
def suspend(
    call: VerbCall,
    *,
    tenant_id: TenantId,
    reason: ReasonOption,
    finish_runs: Annotated[bool, typer.Option("--finish-runs", help="Let runs under way go on to their end.")] = False,
) -> None:
    """Refuse a tenant's requests. Its work waits, and goes on after `resume`."""
    tenant = call.gateway.post(f"/tenants/{tenant_id}/suspend", {"reason": reason, "finish_runs": finish_runs})
    call.show(tenant, lambda: print_fields(tenant))


@verb(app, "resume", acts_as=ADMIN, epilog=examples_epilog("flotilla tenants resume initech"))
def resume(call: VerbCall, tenant_id: TenantId) -> None:
    """Serve a suspended tenant again."""
    tenant = call.gateway.post(f"/tenants/{tenant_id}/resume")
    call.show(tenant, lambda: print_fields(tenant))


@verb(
    app,
    "delete",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla tenants delete initech --reason 'contract 4711 has ended'",
        "flotilla tenants delete initech --confirm --as bob",
    ),
)
def delete(
    call: VerbCall,
    *,
    tenant_id: TenantId,
    reason: Annotated[str | None, typer.Option("--reason", metavar="R", help="Recorded, and kept.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Confirm it, as a second person.")] = False,
) -> None:
    """Ask for the deletion of a suspended tenant, or confirm it: then its keys are destroyed, and its rows go."""
    if confirm:
        tenant = call.gateway.post(f"/tenants/{tenant_id}/deletion/confirm")
        call.show(tenant, lambda: print_fields(tenant))
        return
    if not reason:
        raise Misuse("a reason is required: --reason R (or --confirm, for a second person)")
    tenant = call.gateway.post(f"/tenants/{tenant_id}/deletion", {"reason": reason})
    call.show(tenant, lambda: print_fields(tenant))
    print_notice(f"A second person confirms it: flotilla tenants delete {tenant_id} --confirm", style=None)


def _transfer(name: str, *lines: str) -> Callable[[F], F]:
    """Register a verb that works on the servers, not through the API."""

    def register(function: F) -> F:
        return app.command(name, help=docstring_as_help(function), epilog=examples_epilog(*lines))(function)

    return register


@_transfer("export", "flotilla tenants export initech ~/initech --passphrase-file ~/.flotilla-passphrase")
def export_tenant(
    tenant_id: TenantId,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.", show_default=False)],
    state: State = None,
    passphrase_file: Passphrase = None,
    *,
    with_open_work: Annotated[
        bool, typer.Option("--with-open-work", help="What is under way ends in the other fleet, with a reason.")
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Export a suspended tenant for another fleet: its rows, events and key at one point, signed.

    Of the fleet of FLOTILLA_POSTGRES_DSN (role flotilla_backup) where that is set, else of the local stack.
    """
    from flotilla_cli.local import backups

    document = backups.export_tenant(tenant_id, folder, state, passphrase_file, with_open_work=with_open_work)
    _show_transfer({"folder": str(folder), **document}, output)


@_transfer("import", "flotilla tenants import ~/initech --public-key backup-signing.pub")
def import_tenant(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The export's folder.", show_default=False)],
    state: State = None,
    public_key: PublicKey = None,
    passphrase_file: Passphrase = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Import an exported tenant into a fleet that goes on working, all of it or nothing. It stays suspended.

    Into the fleet of FLOTILLA_POSTGRES_DSN (the owner) where that is set, else into the local stack.
    """
    from flotilla_cli.local import backups

    document = backups.import_tenant(folder, state, public_key, passphrase_file)
    _show_transfer(document, output)
    print_notice(f"Let it begin: flotilla tenants resume {document['tenant_id']}", style=None)


def _show_transfer(document: dict[str, object], output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(document)
    else:
        print_fields(document)


_TENANTS = (
    TableColumn("tenant", "tenant_id"),
    TableColumn("state", "state"),
    TableColumn("created", lambda tenant: age(tenant.get("created_at"))),
    TableColumn("suspended", lambda tenant: age(tenant.get("suspended_at"))),
    TableColumn("reason", "suspended_for"),
    TableColumn("note", "note"),
)
