"""Idempotency-Key: a repeated request gets what the first one made.

Unique per (tenant, principal, route). A second request that comes while the first is still at work waits for it.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, TypeAlias

import asyncpg
import structlog
from fastapi import Header

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict
from flotilla.postgres import AWAY, Connection, Pool
from gateway.auth.principal import Principal

IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key again, with the same body, gets the answer to the first request.",
    ),
]

# Nothing happens where the key is taken; waits for whoever is about to take it.
_CLAIM = """
INSERT INTO flotilla.idempotency_keys (tenant_id, principal, route, key, request_hash, resource_id)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""
_TAKEN = """
SELECT request_hash, resource_id FROM flotilla.idempotency_keys
WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4
"""


_FORGET = "SELECT flotilla.forget_idempotency_keys($1, 1000)"
KEPT_FOR = timedelta(days=7)
FORGET_EVERY_S = 600.0
log = structlog.get_logger(__name__)


class IdempotencyConflict(Conflict):
    """The key was used for another request."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class Claim:
    """A request that may be a repetition. `content` is what makes it the same request."""

    principal: Principal
    route: str
    key: str | None
    content: object

    async def take(self, connection: Connection, resource_id: str) -> str | None:
        """Notes that this request makes `resource_id`; gives what an earlier one with the key made instead.

        Raises:
            IdempotencyConflict: the earlier one asked for something else.
        """
        if self.key is None:
            return None
        place = (self.principal.tenant_id, self.principal.subject, self.route, self.key)
        digest = hashlib.sha256(to_json(self.content)).digest()
        if await connection.execute(_CLAIM, *place, digest, resource_id) == "INSERT 0 1":
            return None
        taken = await connection.fetchrow(_TAKEN, *place)
        if taken is None or taken["request_hash"] != digest:
            raise IdempotencyConflict(f"Idempotency-Key {self.key} was used for another request: use a new one")
        return str(taken["resource_id"])


class Forgetting:
    """Deletes keys that are a week old: nobody retries that long."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self, stop: asyncio.Event) -> None:
        """Now and then, until `stop`; at every replica, which does no harm."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(FORGET_EVERY_S):
                    await stop.wait()
            except TimeoutError:
                await self._forget()

    async def _forget(self) -> None:
        try:
            forgotten = await self._pool.fetchval(_FORGET, KEPT_FOR)
        except (*AWAY, asyncpg.PostgresError) as error:
            log.warning("idempotency_keys_kept", error=str(error))
        else:
            log.info("idempotency_keys_forgotten", keys=forgotten)
