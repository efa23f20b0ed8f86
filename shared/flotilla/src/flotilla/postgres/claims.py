"""Claims: rows that say who does a piece of work, and lapse when their holder died."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from flotilla.contracts.errors import RetryLater
from flotilla.postgres.pool import AWAY

CLAIM_S = 10.0
"""How long a claim outlives its holder."""
log = structlog.get_logger(__name__)


@asynccontextmanager
async def keep_claim_renewed(renew: Callable[[], Awaitable[object]], *, of: str) -> AsyncIterator[None]:
    """Call `renew` three times in `CLAIM_S`, for as long as the block lasts. `of` names the work in the log."""
    renewal = asyncio.create_task(_renew(renew, of), name=f"claim of {of}")
    try:
        yield
    finally:
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal


async def _renew(renew: Callable[[], Awaitable[object]], of: str) -> None:
    while True:
        await asyncio.sleep(CLAIM_S / 3)
        try:
            await renew()
        except (*AWAY, RetryLater, TimeoutError) as error:
            log.warning("claim_not_renewed", of=of, error=str(error))
