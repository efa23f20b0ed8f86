"""`flotilla keys`: who may call the gateway."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import TableColumn, age, print_fields, print_notice, say
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Limit, VerbCall, examples_epilog, new_verb_group, verb

app = new_verb_group("Keys: who may call the gateway. Only admins manage them; on the local stack they act as admin.")


@verb(
    app,
    "create",
    acts_as=ADMIN,
    epilog=examples_epilog(
        "flotilla keys create --for carol --role operator --role approver --expires 90d",
        "flotilla keys create --for ci --role operator -o json",
        "flotilla keys create --for shop --role operator --may-act-for-others",
    ),
)
def create_key(
    call: VerbCall,
    *,
    for_: Annotated[str, typer.Option("--for", metavar="NAME", help="Whose key it is.")],
    role: Annotated[list[str], typer.Option("--role", help="viewer, operator, approver or admin; repeatable.")],
    person: Annotated[
        bool | None,
        typer.Option(
            "--person/--no-person", help="Whether NAME is a person: only people approve. Default: approvers are."
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="SPAN", help="Valid this long, like 12h or 90d.")
    ] = None,
    may_act_for_others: Annotated[
        bool,
        typer.Option("--may-act-for-others", help="Let this service act on behalf of people that it names."),
    ] = False,
    people_of: Annotated[
        str | None,
        typer.Option(
            "--people-of",
            metavar="ISSUER",
            help="Who vouches for these people. Default: the OpenID provider, without one flotilla.",
        ),
    ] = None,
    may_append_as: Annotated[
        str | None,
        typer.Option("--may-append-as", metavar="NAME", help="Let this service append events, as /services/NAME."),
    ] = None,
) -> None:
    """Create a key. It is shown once and stored only as a hash."""
    from flotilla_cli.arguments import parse_expiry

    is_person = "approver" in role if person is None else person
    body: dict[str, Any] = {"name": for_, "roles": role, "person": is_person}
    if expires:
        body["expires_at"] = parse_expiry(expires).isoformat()
    if may_act_for_others:
        body["may_act_for_others"] = True
    if people_of is not None:
        body["people_of"] = people_of
    if may_append_as is not None:
        body["may_append_as"] = may_append_as
    key = call.gateway.post("/keys", body)
    call.show(key, lambda: _print_new(key))


def _print_new(key: dict[str, Any]) -> None:
    print_fields({name: value for name, value in key.items() if name != "key"})
    print_notice("The key, shown only this once:", style=None)
    say(str(key["key"]))


@verb(app, "list", acts_as=ADMIN, epilog=examples_epilog("flotilla keys list"))
def list_keys(call: VerbCall, limit: Limit = 200) -> None:
    """List keys, never their secrets."""
    call.print_listing(call.gateway.list_all_pages("/keys", "keys", limit), "keys", _KEYS, "No key.")


_KEYS = (
    TableColumn("id", "key_id"),
    TableColumn("begins", lambda key: f"{key['hint']}…" if key.get("hint") else "-"),
    TableColumn("name", "name"),
    TableColumn("person", "is_person"),
    TableColumn("acts for people of", "acts_for"),
    TableColumn("roles", lambda key: ", ".join(key.get("roles") or [])),
    TableColumn("created", lambda key: age(key.get("created_at"))),
    TableColumn("by", "created_by"),
    TableColumn("expires", lambda key: age(key.get("expires_at"))),
    TableColumn("revoked", lambda key: age(key.get("revoked_at"))),
)


@verb(app, "revoke", acts_as=ADMIN, epilog=examples_epilog("flotilla keys revoke k-3f9a"))
def revoke_key(
    call: VerbCall, key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.", show_default=False)]
) -> None:
    """Revoke a key by its id, which `flotilla keys list` shows; it stops working at once."""
    answer = call.gateway.delete(f"/keys/{key_id}")
    call.show(
        answer or {"key_id": key_id, "revoked": True}, lambda: print_notice(f"Key {key_id} is revoked.", style=None)
    )
