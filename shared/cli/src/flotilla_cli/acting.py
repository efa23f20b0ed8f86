"""`flotilla doctor --on-behalf-of`: whether a service's key may act for a person, and what it reaches as them."""

from collections.abc import Iterator
from dataclasses import replace

from flotilla_cli.errors import CliError
from flotilla_cli.gateway import GatewayClient
from flotilla_cli.local.checks import CheckResult
from flotilla_cli.printing import Document, escape_for_terminal
from flotilla_cli.target import ConnectionOptions, resolve_target

_STARTS = "operator"
_LISTED = 200
_GRANT = (
    "make a key that may: flotilla keys create --for SERVICE --role operator --may-act-for-others; give it by --token"
)


def check_on_behalf_of(connection: ConnectionOptions, acts_as: str) -> list[CheckResult]:
    """Return what holds for the key of `connection` and its `on_behalf_of`, up to the first thing that does not."""
    return list(_until_first_failure(connection, acts_as))


def _until_first_failure(connection: ConnectionOptions, acts_as: str) -> Iterator[CheckResult]:
    target = resolve_target(connection, acts_as)
    try:
        with GatewayClient(replace(target, on_behalf_of=None)) as own:
            service = own.me()
    except CliError as error:
        yield CheckResult("key", False, str(error), error.hint)
        return
    yield CheckResult(
        "key", True, escape_for_terminal(f"{service['subject']}, a {service['kind']} of tenant {service['tenant']}")
    )
    with GatewayClient(target) as gateway:
        try:
            person = gateway.me()
        except CliError as error:
            yield CheckResult("right", False, str(error), _GRANT)
            return
        yield CheckResult("right", True, escape_for_terminal(f"it may act for {person['subject']}"))
        yield _roles(person)
        yield _sessions(gateway, person)


def _roles(person: Document) -> CheckResult:
    """What of the key's roles counts. Nobody votes or administers that way."""
    roles = person["roles"]
    if not roles:
        return CheckResult(
            "roles", False, "none of the key's roles counts for others", "give the key viewer or operator"
        )
    what = "reads, asks and starts" if _STARTS in roles else "only reads"
    return CheckResult(
        "roles",
        True,
        escape_for_terminal(f"{', '.join(sorted(roles))}: it {what}; votes and keys are the person's own"),
    )


def _sessions(gateway: GatewayClient, person: Document) -> CheckResult:
    try:
        page = gateway.get("/sessions", limit=_LISTED)
    except CliError as error:
        return CheckResult("sees", False, str(error), error.hint)
    sessions = page["sessions"]
    own = sum(1 for session in sessions if session["user_id"] == person["subject"])
    count = f"more than {len(sessions)}" if page.get("next_cursor") else str(len(sessions))
    return CheckResult("sees", True, f"{count} sessions, {own} of these opened by that person, the others shared")
