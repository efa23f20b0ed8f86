"""Which gateway to talk to, and as whom.

Address: `--url`, else FLOTILLA_URL, else the running local stack's, else http://127.0.0.1:8080.
Token: `--token`, else FLOTILLA_TOKEN, else, when the address is the local stack's, one of its keys: `--as NAME`, by
default `alice` (a person: operator and approver), and `admin` for the verbs that administer the fleet. A key of the
local stack is never sent to any other address.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flotilla_cli.errors import CliError, Misuse, NotFound

if TYPE_CHECKING:
    from flotilla_devstack import StackStatus

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "FLOTILLA_URL"
TOKEN_VARIABLE = "FLOTILLA_TOKEN"  # noqa: S105 - a variable's name
PERSON = "alice"
ADMIN = "admin"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class ConnectionOptions:
    """The connection options of the command line; None where not given."""

    url: str | None = None
    token: str | None = None
    acts_as: str | None = None
    on_behalf_of: str | None = None

    def over(self, others: "ConnectionOptions") -> "ConnectionOptions":
        """Return these options, completed by `others`."""
        return ConnectionOptions(
            self.url or others.url,
            self.token or others.token,
            self.acts_as or others.acts_as,
            others.on_behalf_of if self.on_behalf_of is None else self.on_behalf_of,
        )


@dataclass(frozen=True)
class GatewayTarget:
    """A gateway, the credentials for it, and whose they are (empty when only the gateway knows).

    `on_behalf_of` is the person for whom a service acts, whose key has that right.
    """

    url: str
    token: str
    name: str = ""
    on_behalf_of: str | None = None


def resolve_target(connection: ConnectionOptions, default_name: str) -> GatewayTarget:
    """The gateway and credentials to use.

    Raises:
        Misuse: the address is not valid, or there are no credentials for it.
        NotFound: nothing names a gateway or a key, and the local stack does not run.
    """
    named = configured_url(connection)
    token = connection.token or (None if connection.acts_as else os.environ.get(TOKEN_VARIABLE))
    running = local_gateway_url()
    if not (named or token or running):
        raise _stack_is_off()
    url = _checked(named or running or DEFAULT_URL)
    if token:
        return GatewayTarget(url, token, on_behalf_of=connection.on_behalf_of)
    name = connection.acts_as or default_name
    return GatewayTarget(url, _local_key(url, name), name, connection.on_behalf_of)


def configured_url(connection: ConnectionOptions) -> str | None:
    """The address that somebody named, which is not the local stack's by default."""
    return connection.url or os.environ.get(URL_VARIABLE) or None


def _stack_is_off() -> NotFound:
    status = read_local_stack_status()
    state = status["state"] if status else "stopped"
    if state == "starting":
        return NotFound("the local stack is still starting", "wait a moment: flotilla status shows how far it is")
    detail = f"the local stack is not running (it is {state})" if status else "no local stack is running"
    return NotFound(
        detail, f"start it with: flotilla up; or name another gateway: --url and --token ({URL_VARIABLE}, …)"
    )


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise Misuse(f"{url!r} is not the address of a gateway", "give it as http://HOST:PORT or https://HOST")
    return url.rstrip("/")


def local_gateway_url() -> str | None:
    """The address of the local stack's gateway, if the stack is running."""
    status = read_local_stack_status()
    return status["url"] or None if status and status["state"] == "ready" else None


@cache
def read_local_stack_status() -> "StackStatus | None":
    """The local stack's status; None when there never was one."""
    from flotilla_devstack import DevstackError, stack_status

    try:
        return stack_status()
    except DevstackError:
        return None


def _local_key(url: str, name: str) -> str:
    status = read_local_stack_status()
    if status is None or not status["url"] or not is_same_server(url, status["url"]):
        raise Misuse(
            f"no token for {url}",
            f"give one by --token or {TOKEN_VARIABLE}; for a local stack, start it with: flotilla up",
        )
    keys = read_local_keys(Path(status["keys_file"]))
    if name not in keys:
        raise Misuse(f"the local stack has no key called {name}", f"--as takes one of: {', '.join(sorted(keys))}")
    return keys[name]


def read_local_keys(path: Path) -> Mapping[str, str]:
    """The local keys file: name → key.

    Raises:
        CliError: it is missing, unreadable or not what it should be.
    """
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CliError(
            f"cannot read the local keys in {path}: {error}", "create them again with: flotilla up"
        ) from error
    if not isinstance(keys, dict):
        raise CliError(f"{path} is not a JSON object of name → key", "remove it, then: flotilla down; flotilla up")
    return keys


def is_same_server(left: str, right: str) -> bool:
    """Whether two URLs name the same server; all names of loopback count as one."""
    return _address(left) == _address(right)


def _address(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, "loopback" if host in _LOOPBACK else host, port
