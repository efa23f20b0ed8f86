"""Idempotency-Key: a repeated request gets what the first one made.

Unique per (tenant, principal, route). A second request that comes while the first is still at work waits for it.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Header

from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict
from flotilla.postgres import Connection
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

# Nothing happens where the key is taken; waits for a request that is about to take it.
_CLAIM_IDEMPOTENCY_KEYS = """
INSERT INTO flotilla.idempotency_keys (tenant_id, principal, route, key, request_hash, resource_id)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
"""
_SELECT_TAKEN_IDEMPOTENCY_KEYS = """
SELECT request_hash, resource_id FROM flotilla.idempotency_keys
WHERE tenant_id = $1 AND principal = $2 AND route = $3 AND key = $4
"""


class IdempotencyConflict(Conflict):
    """The key was used for another request."""

    code = "idempotency_key_reused"


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A request that may be a repetition. `content` is what makes it the same request."""

    principal: Principal
    route: str
    key: str | None
    content: object

    async def take(self, connection: Connection, resource_id: str) -> str | None:
        """Note that this request makes `resource_id`; give what an earlier one with the key made instead.

        Raises:
            IdempotencyConflict: the earlier one asked for something else.
        """
        if self.key is None:
            return None
        place = (self.principal.tenant_id, self.principal.idempotency_scope, self.route, self.key)
        digest = hashlib.sha256(to_json(self.content)).digest()
        if await connection.execute(_CLAIM_IDEMPOTENCY_KEYS, *place, digest, resource_id) == "INSERT 0 1":
            return None
        taken = await connection.fetchrow(_SELECT_TAKEN_IDEMPOTENCY_KEYS, *place)
        if taken is None or taken["request_hash"] != digest:
            raise IdempotencyConflict(f"Idempotency-Key {self.key} was used for another request: use a new one")
        return str(taken["resource_id"])
