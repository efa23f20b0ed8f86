"""Deletes rows by age: idempotency keys that no client can be retrying, sign-ins and browser
tokens that have ended, files of OpenAI's clients that have expired."""

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop

KEPT_FOR = timedelta(days=7)
DELETE_EVERY_S = 600.0
AT_MOST = 1000
_FORGET_KEYS = "SELECT flotilla.forget_idempotency_keys($1, $2)"
_FORGET_SIGN_INS = "SELECT flotilla.forget_sign_ins($1)"
_FORGET_FILES = "SELECT flotilla.forget_openai_files($1)"
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
                await self.delete_expired(stop)

    async def delete_expired(self, stop: asyncio.Event | None = None) -> None:
        """Delete all expired rows, or some of them where `stop` comes first; if the database is unavailable, leave them
        for the next time."""
        stop = stop or asyncio.Event()
        try:
            keys = await self._forget(stop, _FORGET_KEYS, KEPT_FOR)
            sign_ins = await self._forget(stop, _FORGET_SIGN_INS)
            tokens = await self._forget(stop, _FORGET_TOKENS)
            files = await self._forget(stop, _FORGET_FILES)
        except (*AWAY, asyncpg.PostgresError) as error:
            log.warning("retention_skipped", error=str(error))
        else:
            log.info(
                "expired_rows_deleted", idempotency_keys=keys, sign_ins=sign_ins, browser_tokens=tokens, files=files
            )

    async def _forget(self, stop: asyncio.Event, statement: str, *arguments: object) -> int:
        """In transactions of `AT_MOST` rows, so that none takes long: clients may make rows faster than one of them
        every 10 minutes deletes."""
        gone = 0
        while not stop.is_set():
            deleted = await self._pool.fetchval(statement, *arguments, AT_MOST)
            gone += deleted
            if deleted < AT_MOST:
                break
        return gone
