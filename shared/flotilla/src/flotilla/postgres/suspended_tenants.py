"""Tenants whose requests are refused and whose work waits, as the operators of the fleet said."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from flotilla.contracts.errors import TenantSuspended
from flotilla.postgres.pool import Pool, retry_later_if_unavailable

FRESH_S = 1.0
"""How long a suspension, or its end, may be unknown to a process."""
_SELECT_SUSPENDED_TENANTS = """
SELECT tenant_id, suspended_at FROM flotilla_ops.tenants
WHERE suspended_at IS NOT NULL AND ($1 OR NOT finishes_runs)
"""


class SuspendedTenants:
    """What one process knows of them: read at most once a second, for all requests together."""

    def __init__(self, pool: Pool, *, with_finishing: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`with_finishing` tells whether those count that are to finish what is under way."""
        self._pool = pool
        self._with_finishing = with_finishing
        self._monotonic = monotonic
        self._known: Mapping[str, datetime] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def check_active(self, tenant_id: str) -> None:
        """Let the call pass if the tenant is active.

        Raises:
            TenantSuspended: it is suspended.
            RetryLater: PostgreSQL is unavailable.
        """
        if not self._is_fresh():
            async with self._reading:
                await self._read()
        since = self._known.get(tenant_id)
        if since is not None:
            raise TenantSuspended(
                f"tenant {tenant_id} is suspended since {since.isoformat(timespec='seconds')}: its requests are "
                "refused and its work waits until the fleet's operators resume it"
            )

    def forget(self) -> None:
        """Read again at the next call."""
        self._read_at = float("-inf")

    def _is_fresh(self) -> bool:
        return self._monotonic() - self._read_at < FRESH_S

    async def _read(self) -> None:
        if self._is_fresh():  # somebody else has read it meanwhile
            return
        asked_at = self._monotonic()
        with retry_later_if_unavailable():
            rows = await self._pool.fetch(_SELECT_SUSPENDED_TENANTS, self._with_finishing)
        self._known = {row["tenant_id"]: row["suspended_at"] for row in rows}
        self._read_at = asked_at
