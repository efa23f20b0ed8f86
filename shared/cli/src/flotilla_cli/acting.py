"""`flotilla doctor --on-behalf-of`: whether a service's key may act for a person, and what it reaches as them."""

from collections.abc import Iterator
from dataclasses import replace

from flotilla_cli.errors import CliError
from flotilla_cli.gateway import Gateway
from flotilla_cli.local.checks import Finding
from flotilla_cli.printing import Document, plain
from flotilla_cli.target import ConnectionOptions, resolve

_STARTS = "operator"
_LISTED = 200
_GRANT = (
    "make a key that may: flotilla keys create --for SERVICE --role operator --may-act-for-others; give it by --token"
)


def examine_acting(connection: ConnectionOptions, acts_as: str) -> list[Finding]:
    """Return what holds for the key of `connection` and its `on_behalf_of`, up to the first thing that does not."""
    return list(_until_first_failure(connection, acts_as))


def _until_first_failure(connection: ConnectionOptions, acts_as: str) -> Iterator[Finding]:
    target = resolve(connection, acts_as)
    try:
        with Gateway(replace(target, on_behalf_of=None)) as own:
            service = own.me()
    except CliError as error:
        yield Finding("key", False, str(error), error.hint)
        return
    yield Finding("key", True, plain(f"{service['subject']}, a {service['kind']} of tenant {service['tenant']}"))
    with Gateway(target) as gateway:
        try:
            person = gateway.me()
        except CliError as error:
            yield Finding("right", False, str(error), _GRANT)
            return
        yield Finding("right", True, plain(f"it may act for {person['subject']}"))
        yield _roles(person)
        yield _sessions(gateway, person)


def _roles(person: Document) -> Finding:
    """What of the key's roles counts. Nobody votes or administers that way."""
    roles = person["roles"]
    if not roles:
        return Finding("roles", False, "none of the key's roles counts for others", "give the key viewer or operator")
    what = "reads, asks and starts" if _STARTS in roles else "only reads"
    return Finding("roles", True, plain(f"{', '.join(sorted(roles))}: it {what}; votes and keys are the person's own"))


def _sessions(gateway: Gateway, person: Document) -> Finding:
    try:
        page = gateway.get("/sessions", limit=_LISTED)
    except CliError as error:
        return Finding("sees", False, str(error), error.hint)
    sessions = page["sessions"]
    own = sum(1 for session in sessions if session["user_id"] == person["subject"])
    count = f"more than {len(sessions)}" if page.get("next_cursor") else str(len(sessions))
    return Finding("sees", True, f"{count} sessions, {own} of these opened by that person, the others shared")
