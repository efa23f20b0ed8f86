"""The logs of signing keys: what the tenants' audit sessions say of them, read once and remembered."""

import asyncio
from collections import defaultdict

from flotilla.contracts.errors import RetryLater
from flotilla.postgres import Pool, tenant_transaction
from flotilla.votes.signer_history import SignerHistory

_SELECT_SIGNER_EVENTS = "SELECT seq, body FROM flotilla.signer_events($1)"
_WAIT_S, _POLL_S = 10.0, 0.1


class SigningKeyLog:
    """Reads what is new at each question. What it has seen once, a database can't take back as long as it runs."""

    def __init__(self, pool: Pool, *, wait_s: float = _WAIT_S) -> None:
        self._pool = pool
        self._wait_s = wait_s
        self._known: dict[str, SignerHistory] = {}
        self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def load_signer_history(self, tenant_id: str) -> SignerHistory:
        """Return the tenant's keys, up to the newest event.

        Raises:
            Unproven: the log lost events, or has some that can't be read.
            RetryLater: its newest events are neither in the outbox nor in the projection yet.
        """
        async with self._alone[tenant_id]:
            known = self._known.get(tenant_id, SignerHistory())
            head_seq, events = await self._load_events_after(tenant_id, known.head_seq)
            known.add_audit_events(head_seq, events)
            self._known[tenant_id] = known
            return known

    async def _load_events_after(self, tenant_id: str, seq: int) -> tuple[int, list[tuple[int, bytes]]]:
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while True:
            async with tenant_transaction(self._pool, tenant_id) as connection:
                rows = await connection.fetch(_SELECT_SIGNER_EVENTS, seq)
            if rows:
                return rows[-1]["seq"], [(row["seq"], row["body"]) for row in rows[:-1]]
            if asyncio.get_running_loop().time() > deadline:
                raise RetryLater("the newest events about signing keys are not projected yet: try again in a moment")
            await asyncio.sleep(_POLL_S)
