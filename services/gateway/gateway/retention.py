"""Deletes rows by age: idempotency keys that no client can be retrying, sign-ins and browser
tokens that have ended."""

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop

KEPT_FOR = timedelta(days=7)
DELETE_EVERY_S = 600.0
_AT_MOST = 1000
_FORGET_KEYS = "SELECT flotilla.forget_idempotency_keys($1, $2)"
_FORGET_SIGN_INS = "SELECT flotilla.forget_sign_ins($1)"
_FORGET_TOKENS = "SELECT flotilla.forget_browser_tokens($1)"
log = structlog.get_logger(__name__)


class RetentionJob:
    """Deletes expired rows every 10 minutes. Every replica may run one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`."""
        while not stop.is_set():
            await sleep_or_stop(stop, DELETE_EVERY_S)
            if not stop.is_set():
                await self.delete_expired()

    async def delete_expired(self) -> None:
        """Delete the expired rows once; if the database is unavailable, leave them for the next time."""
        try:
            keys = await self._pool.fetchval(_FORGET_KEYS, KEPT_FOR, _AT_MOST)
            sign_ins = await self._pool.fetchval(_FORGET_SIGN_INS, _AT_MOST)
            tokens = await self._pool.fetchval(_FORGET_TOKENS, _AT_MOST)
        except (*AWAY, asyncpg.PostgresError) as error:
            log.warning("retention_skipped", error=str(error))
        else:
            log.info("expired_rows_deleted", idempotency_keys=keys, sign_ins=sign_ins, browser_tokens=tokens)
