"""What Redis denied its users: commands and keys beyond their rights, as its ACL log names them."""

from collections import Counter
from typing import Any

import structlog
from redis.exceptions import NoPermissionError

from flotilla.bus.connection import Redis, ask
from flotilla.telemetry.metrics import REDIS_DENIED

MAX_ENTRIES = 128
"""As many as Redis keeps by default (acllog-max-len)."""
_MAX_CHARS = 200
_HARMLESS = frozenset({"client|setinfo"})
"""Clients name their library with it, and do without."""
_REASONS = frozenset({"command", "key", "channel"})
"""Failed logins are not among them: their user names are the caller's choice."""

log = structlog.get_logger(__name__)


class Denials:
    """Counts and logs what was denied since the last look. What was there before the first look is history."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._counted: Counter[tuple[str, str, str]] | None = None
        self._may_look = True

    async def look(self) -> None:
        """Report what is new. Without the right to read the log (an older users.acl) it asks once, and never again."""
        if not self._may_look:
            return
        try:
            found = by_kind(await ask(self._redis, "ACL", "LOG", MAX_ENTRIES))
        except NoPermissionError as error:
            self._may_look = False
            log.warning("redis_denials_not_read", error=str(error))
            return
        for kind, times in found.items():
            new = times - (found if self._counted is None else self._counted)[kind]
            if new > 0:
                _report(*kind, new)
        self._counted = found


def _report(user: str, reason: str, denied: str, times: int) -> None:
    REDIS_DENIED.labels(user).inc(times)
    log.warning("redis_denied", user=user, reason=reason, denied=denied, times=times)


def by_kind(rows: list[list[Any]]) -> Counter[tuple[str, str, str]]:
    """How often each user was denied what, by the log's entries: names and values in turn."""
    found: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        entry = dict(zip(row[::2], row[1::2], strict=True))
        user, reason, denied = (entry[name].decode(errors="replace") for name in (b"username", b"reason", b"object"))
        if reason in _REASONS and denied.lower() not in _HARMLESS:
            found[user, reason, denied[:_MAX_CHARS]] += entry[b"count"]
    return found
