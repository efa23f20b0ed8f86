"""Redis users, one per service: each may touch the streams that the contract gives it, and nothing else.

`python -m flotilla.bus.acl` prints the lines of a users.acl file, with the passwords that it finds in the environment.
Source of the rule syntax: https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from redis.exceptions import ResponseError

from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import (
    CANCELLED_KEY_PREFIX,
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    LOGIN_KEY_PREFIX,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    REPLY_STREAM_PREFIX,
    RUN_STREAM_PREFIX,
    TASK_STREAM_PREFIX,
    reply_stream,
    task_stream,
)

_CONNECT_COMMANDS = "+auth +hello +ping +select +client|setname +multi +exec"
_CONSUME_COMMANDS = (
    "+xreadgroup +xautoclaim +xclaim +xpending +xack +xgroup|create +xgroup|delconsumer +xinfo|groups +xinfo|consumers "
    "+xrange +fcall"
)
_READ_COMMANDS = "+xread +xrange +xlen"


@dataclass(frozen=True, slots=True)
class AclSelector:
    """Commands on keys: `%RW~` read and write, `%W~` write, `%R~` read. Each command must fit one selector whole, so
    that permission to add to a stream is not permission to acknowledge in it."""

    commands: str
    keys: tuple[str, ...] = ()

    def acl_words(self) -> list[str]:
        """As the server reads them."""
        return [*self.keys, *self.commands.split()]


@dataclass(frozen=True, slots=True)
class RedisUserPermissions:
    """What one user may do; the first selector is the user's own, the others are further ones (Redis 7)."""

    selectors: tuple[AclSelector, ...]

    def acl_rules(self) -> list[str]:
        """The words of `ACL SETUSER`, but for the password."""
        first, *further = self.selectors
        return ["reset", "on", "-@all", *first.acl_words(), *(f"({' '.join(each.acl_words())})" for each in further)]


def agent_redis_permissions(agent: str) -> RedisUserPermissions:
    """For the service of `agent`: its own tasks to read, its own reply stream to add to, live runs whose name it knows.

    Nothing that others read or write is within its reach but the live stream of a run, whose name only the tasks of
    that run hold. No script is its own: it calls the functions that housekeeping has loaded.
    """
    return RedisUserPermissions(
        (
            AclSelector(
                f"{_CONNECT_COMMANDS} {_CONSUME_COMMANDS}",
                (f"%RW~{task_stream(agent)}", f"%RW~{task_stream(agent, '*')}"),
            ),
            AclSelector("+xadd", (f"%W~{reply_stream(agent)}",)),
            AclSelector("+xadd +expire", (f"%W~{RUN_STREAM_PREFIX}*",)),
            AclSelector("+exists", (f"%R~{CANCELLED_KEY_PREFIX}*",)),
        )
    )


_REPLY_KEYS = (REPLIES_STREAM, f"{REPLY_STREAM_PREFIX}*", REDRIVES_STREAM)
WORKER_REDIS_PERMISSIONS = RedisUserPermissions(
    (
        AclSelector(
            f"{_CONNECT_COMMANDS} {_CONSUME_COMMANDS} {_READ_COMMANDS} "
            "+xadd +xtrim +xinfo|stream +scan +del +function|load +acl|log",
            (f"%RW~{TASK_STREAM_PREFIX}*", *(f"%RW~{stream}" for stream in _REPLY_KEYS)),
        ),
        AclSelector(
            "+xadd +expire",
            tuple(f"%W~{each}" for each in (f"{RUN_STREAM_PREFIX}*", EVENTS_STREAM, DEAD_LETTERS_STREAM)),
        ),
        AclSelector("+set", (f"%W~{CANCELLED_KEY_PREFIX}*",)),
        AclSelector("+xinfo|groups +xinfo|consumers +xpending", (f"%R~{EVENTS_STREAM}",)),
    )
)
"""For the workflow worker: delegation, the bridge and housekeeping."""

GATEWAY_REDIS_PERMISSIONS = RedisUserPermissions(
    (
        AclSelector(
            f"{_CONNECT_COMMANDS} {_READ_COMMANDS} +xrevrange", (f"%R~{RUN_STREAM_PREFIX}*", f"%R~{EVENTS_STREAM}")
        ),
        AclSelector("+xadd", (f"%W~{REDRIVES_STREAM}",)),
        AclSelector(
            "+exists +xinfo|groups +xpending",
            (f"%R~{TASK_STREAM_PREFIX}*", *(f"%R~{stream}" for stream in _REPLY_KEYS)),
        ),
        AclSelector("+set +getdel", (f"%RW~{LOGIN_KEY_PREFIX}*",)),
    )
)
"""For the gateway: live runs and announcements to read, dead letters to ask for again, what waits on the streams,
logins on their way."""

SCALER_REDIS_PERMISSIONS = RedisUserPermissions(
    (
        AclSelector(
            f"{_CONNECT_COMMANDS} +info +xlen +xpending +xinfo|groups +xinfo|stream",
            (f"%R~{TASK_STREAM_PREFIX}*", *(f"%R~{stream}" for stream in _REPLY_KEYS)),
        ),
    )
)
"""For KEDA: lengths, lag and pending entries."""


def fleet_redis_permissions(agents: Iterable[str] = ("research", "write", "mcp")) -> dict[str, RedisUserPermissions]:
    """The users of a fleet with these agents, by name: `<agent>-agent`, `workflow-worker`, `gateway`, `scaler`."""
    users = {f"{agent}-agent": agent_redis_permissions(agent) for agent in agents}
    return {
        **users,
        "workflow-worker": WORKER_REDIS_PERMISSIONS,
        "gateway": GATEWAY_REDIS_PERMISSIONS,
        "scaler": SCALER_REDIS_PERMISSIONS,
    }


def format_acl_file(users: Mapping[str, RedisUserPermissions], passwords: Mapping[str, str]) -> str:
    """The text of a users.acl file. It holds passwords as SHA-256 only; the default user is off.

    Raises:
        ConfigurationError: a user has no password.
    """
    missing = [name for name in users if not passwords.get(name)]
    if missing:
        raise ConfigurationError(
            f"no password for {', '.join(missing)}: set {', '.join(map(_password_variable, missing))}"
        )
    lines = [_acl_file_line(name, grant, passwords[name]) for name, grant in users.items()]
    return "\n".join(["user default off", *lines]) + "\n"


async def create_redis_users(
    redis: Redis, users: Mapping[str, RedisUserPermissions], passwords: Mapping[str, str]
) -> None:
    """Make those of `users` that have a password, and save them where the server keeps a users.acl file."""
    known = {name: grant for name, grant in users.items() if passwords.get(name)}
    for name, grant in known.items():
        await execute_redis_command(
            redis, "ACL", "SETUSER", name, *grant.acl_rules(), f"#{_password_digest(passwords[name])}"
        )
    if known:
        try:
            await execute_redis_command(redis, "ACL", "SAVE")
        except ResponseError as error:
            if "not configured to use an ACL file" not in str(error):
                raise


def _password_digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _acl_file_line(name: str, grant: RedisUserPermissions, password: str) -> str:
    return " ".join(["user", name, *grant.acl_rules(), f"#{_password_digest(password)}"])


def _password_variable(user: str) -> str:
    return f"REDIS_PASSWORD_{user.upper().replace('-', '_')}"


def main(arguments: list[str]) -> int:
    """Print a users.acl file; arguments are the fleet's agents."""
    users = fleet_redis_permissions(arguments) if arguments else fleet_redis_permissions()
    try:
        text = format_acl_file(users, {name: os.environ.get(_password_variable(name), "") for name in users})
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
