"""What the gateway deletes by age: idempotency keys that nobody can be retrying, sign-ins that are over."""

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop

KEPT_FOR = timedelta(days=7)
FORGET_EVERY_S = 600.0
_AT_MOST = 1000
_FORGET_KEYS = "SELECT flotilla.forget_idempotency_keys($1, $2)"
_FORGET_SIGN_INS = "SELECT flotilla.forget_sign_ins($1)"
log = structlog.get_logger(__name__)


class Forgetting:
    """Deletes now and then. Every replica does, which does no harm."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            await sleep_or_stop(stop, FORGET_EVERY_S)
            if not stop.is_set():
                await self.forget()

    async def forget(self) -> None:
        """Deletes once what is old enough; a database that is away is left for the next time."""
        try:
            keys = await self._pool.fetchval(_FORGET_KEYS, KEPT_FOR, _AT_MOST)
            sign_ins = await self._pool.fetchval(_FORGET_SIGN_INS, _AT_MOST)
        except (*AWAY, asyncpg.PostgresError) as error:
            log.warning("nothing_forgotten", error=str(error))
        else:
            log.info("forgotten", idempotency_keys=keys, sign_ins=sign_ins)
