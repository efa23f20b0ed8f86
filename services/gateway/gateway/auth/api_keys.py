"""API keys: looked up by hash, remembered for a few seconds."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from flotilla.contracts.api_keys import api_key_hash
from flotilla.contracts.identity import LOCAL_ISSUER
from flotilla.contracts.ids import Clock, utc_now
from flotilla.postgres import Pool, tenant_transaction
from gateway.auth.principal import SCOPES, BrowserTokenGrant, Principal, known_roles

MAX_REMEMBERED = 10_000
MAX_KEY_LENGTH = 256
_UNKNOWN_S = 2.0
"""How long a key that is none is remembered: short, since it may be about to be made."""
_AUTHENTICATE_KEY = "SELECT * FROM flotilla.authenticate($1)"
_IS_SERVICE = """
SELECT EXISTS (SELECT FROM flotilla.api_keys WHERE tenant_id = $1 AND subject = $2)
    AND NOT EXISTS (SELECT FROM flotilla.people WHERE tenant_id = $1 AND subject = $2)
"""


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal | None
    expires_at: datetime | None
    until: float


class ApiKeys:
    """Finds who a key belongs to. A revocation holds after `cache_s` at the latest, an expiry at once.

    `statement` gives the row for a hash: another one finds other secrets that are stored as hashes. `issuer` is whose
    identities are those that came without a key.
    """

    def __init__(
        self,
        pool: Pool,
        cache_s: float,
        *,
        statement: str = _AUTHENTICATE_KEY,
        issuer: str = LOCAL_ISSUER,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._cache_s = cache_s
        self._statement = statement
        self._issuer = issuer
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def find_principal(self, key: str) -> Principal | None:
        """Whose key it is; None when it is unknown, revoked or expired."""
        if len(key) > MAX_KEY_LENGTH:
            return None
        digest = api_key_hash(key)
        known = self._known.get(digest)
        if known is None or known.until < self._monotonic():
            known = await self._look_up(digest)
        if known.expires_at is not None and known.expires_at <= self._clock():
            return None
        return known.principal

    async def is_service(self, tenant_id: str, subject: str) -> bool:
        """Return whether the name is that of a service's keys."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            return bool(await connection.fetchval(_IS_SERVICE, tenant_id, subject))

    def clear_cache(self, digest: bytes | None = None) -> None:
        """Asks the database again about one key, or about all."""
        if digest is None:
            self._known.clear()
        else:
            self._known.pop(digest, None)

    async def _look_up(self, digest: bytes) -> _Known:
        row = await self._pool.fetchrow(self._statement, digest)
        found = _Known(
            principal=_principal(row, self._issuer) if row else None,
            expires_at=row["expires_at"] if row else None,
            until=self._monotonic() + (self._cache_s if row else min(_UNKNOWN_S, self._cache_s)),
        )
        self._known[digest] = found
        self._known.move_to_end(digest)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return found


def _principal(row: asyncpg.Record, issuer: str) -> Principal:
    grant = _grant(row)
    return Principal(
        tenant_id=row["tenant_id"],
        subject=row["subject"],
        roles=known_roles([SCOPES[scope] for scope in grant.scopes] if grant else row["roles"]),
        is_person=row["is_person"],
        key_id=row["key_id"],
        issuer=row.get("issuer") or (LOCAL_ISSUER if row["key_id"] else issuer),
        groups=frozenset(row.get("groups") or ()),
        acts_for=row.get("acts_for"),
        acted_by=row.get("acted_by"),
        grant=grant,
        expires_at=row["expires_at"],
    )


def _grant(row: asyncpg.Record) -> BrowserTokenGrant | None:
    if row.get("token_id") is None:
        return None
    scopes = frozenset(scope for scope in SCOPES if scope in row["scopes"])
    return BrowserTokenGrant(
        token_id=row["token_id"],
        sessions=frozenset(row["sessions"]),
        scopes=scopes,
        workflows=frozenset(row["workflows"]),
    )
