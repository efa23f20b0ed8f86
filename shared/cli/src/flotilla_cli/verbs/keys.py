"""`flotilla keys`: who may call the gateway."""

from typing import Annotated, Any

import typer

from flotilla_cli.printing import Column, age, notice, print_fields, say
from flotilla_cli.target import ADMIN
from flotilla_cli.verb import Call, Limit, examples, new_app, verb

app = new_app("Keys: who may call the gateway. Only admins manage them; on the local stack they act as admin.")


@verb(
    app,
    "create",
    acts_as=ADMIN,
    epilog=examples(
        "flotilla keys create --for carol --role operator --role approver --expires 90d",
        "flotilla keys create --for ci --role operator -o json",
        "flotilla keys create --for shop --role operator --may-act-for-others",
    ),
)
def create_key(
    call: Call,
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
    from flotilla_cli.arguments import read_expiry

    is_person = "approver" in role if person is None else person
    body: dict[str, Any] = {"name": for_, "roles": role, "person": is_person}
    if expires:
        body["expires_at"] = read_expiry(expires).isoformat()
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
    notice("The key, shown only this once:", style=None)
    say(str(key["key"]))


@verb(app, "list", acts_as=ADMIN, epilog=examples("flotilla keys list"))
def list_keys(call: Call, limit: Limit = 200) -> None:
    """List keys, never their secrets."""
    call.listing(call.gateway.pages("/keys", "keys", limit), "keys", _KEYS, "No key.")


_KEYS = (
    Column("id", "key_id"),
    Column("begins", lambda key: f"{key['hint']}…" if key.get("hint") else "-"),
    Column("name", "name"),
    Column("person", "is_person"),
    Column("acts for people of", "acts_for"),
    Column("roles", lambda key: ", ".join(key.get("roles") or [])),
    Column("created", lambda key: age(key.get("created_at"))),
    Column("by", "created_by"),
    Column("expires", lambda key: age(key.get("expires_at"))),
    Column("revoked", lambda key: age(key.get("revoked_at"))),
)


@verb(app, "revoke", acts_as=ADMIN, epilog=examples("flotilla keys revoke k-3f9a"))
def revoke_key(
    call: Call, key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.", show_default=False)]
) -> None:
    """Revoke a key by its id, which `flotilla keys list` shows; it stops working at once."""
    answer = call.gateway.delete(f"/keys/{key_id}")
    call.show(answer or {"key_id": key_id, "revoked": True}, lambda: notice(f"Key {key_id} is revoked.", style=None))
