"""What Redis denied its users: commands and keys beyond their rights, as its ACL log names them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, ResponseError

from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.telemetry.metrics import REDIS_DENIED

MAX_ACL_LOG_ENTRIES = 128
"""As many as Redis keeps by default (acllog-max-len)."""
_MAX_REPORTED_CHARS = 200
_IGNORED_COMMANDS = frozenset({"client|setinfo"})
"""Clients name their library with it, and do without."""
_REPORTED_REASONS = frozenset({"command", "key", "channel"})
"""Failed logins are not among them: their user names are the caller's choice."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeniedCommand:
    """What a user was denied."""

    user: str
    reason: str
    name: str
    """Of the command, the key or the channel."""


class DenialMonitor:
    """Counts and logs what was denied since the last look. What was there before the first look is history."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counted: Counter[tuple[DeniedCommand, bytes]] | None = None
        self._may_look = True

    async def report_new_denials(self) -> None:
        """Report what is new. Where Redis refuses to show its log (an older users.acl, a service without it) it asks
        once, and never again."""
        if not self._may_look:
            return
        try:
            found = denial_counts_by_entry(await execute_redis_command(self._redis, "ACL", "LOG", MAX_ACL_LOG_ENTRIES))
        except ResponseError as error:
            if not _is_permanent_error(error):
                raise
            self._may_look = False
            log.warning("redis_denials_not_read", error=str(error))
            return
        before = found if self._counted is None else self._counted
        new: Counter[DeniedCommand] = Counter()
        for (denied, entry), times in found.items():
            new[denied] += max(0, times - before[denied, entry])
        self._counted = found
        for denied, times in (+new).items():
            _report_denial(denied, times)


def _is_permanent_error(error: ResponseError) -> bool:
    return isinstance(error, NoPermissionError) or "unknown" in str(error).lower()


def _report_denial(denied: DeniedCommand, times: int) -> None:
    REDIS_DENIED.labels(denied.user).inc(times)
    log.warning("redis_denied", user=denied.user, reason=denied.reason, denied=denied.name, times=times)


def denial_counts_by_entry(rows: list[list[Any]]) -> Counter[tuple[DeniedCommand, bytes]]:
    """Return how often each user was denied what, by the entry of Redis' log that counts it. Redis 7.2 and later number
    their entries, which come and go; those of an earlier one are counted together."""
    found: Counter[tuple[DeniedCommand, bytes]] = Counter()
    for row in rows:
        entry = dict(zip(row[::2], row[1::2], strict=True))
        user, reason, name = (entry[field].decode(errors="replace") for field in (b"username", b"reason", b"object"))
        if reason in _REPORTED_REASONS and name.lower() not in _IGNORED_COMMANDS:
            which = b"%s at %s" % tuple(
                _to_bytes(entry.get(field, b"")) for field in (b"entry-id", b"timestamp-created")
            )
            found[DeniedCommand(user, reason, name[:_MAX_REPORTED_CHARS]), which] += entry[b"count"]
    return found


def _to_bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
