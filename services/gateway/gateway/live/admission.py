"""Whether the caller of an open stream may still read it: keys are revoked, sign-ins end, tokens expire,
sessions are shared no longer."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request

from flotilla.contracts.errors import Forbidden, NotFound, RetryLater
from flotilla.postgres import AWAY
from gateway.auth.principal import Principal

CHECK_EVERY_S = 5.0
"""With `key_cache_s` on top, the longest that a stream outlives its caller's rights."""
RETRY_S = 0.5


class StreamAccessCheck:
    """Ask again every few seconds. While nobody can say, the stream waits: it sends nothing that it may not."""

    def __init__(
        self,
        check: Callable[[], Awaitable[None]],
        *,
        every_s: float = CHECK_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`check` raises what a new request of the caller would be answered with; it has just passed."""
        self._check = check
        self._every_s = every_s
        self._monotonic = monotonic
        self._due = monotonic() + every_s

    def recheck_now(self) -> None:
        """Ask at the next look, since something was changed."""
        self._due = self._monotonic()

    async def may_read(self) -> bool:
        """Return whether the caller may still read."""
        while self._monotonic() >= self._due:
            try:
                await self._check()
            except (Forbidden, NotFound, HTTPException):
                return False
            except (RetryLater, *AWAY, TimeoutError):
                await asyncio.sleep(RETRY_S)
            else:
                self._due = self._monotonic() + self._every_s
        return True

    async def check_may_read(self, what: str) -> None:
        """Check that the caller may still read `what`.

        Raises:
            Forbidden: no longer.
        """
        if not await self.may_read():
            raise Forbidden(f"these credentials no longer read {what}")


def stream_access_check(
    request: Request, caller: Principal, read: Callable[[], Awaitable[object]]
) -> StreamAccessCheck:
    """Return what admits the caller of `request`, whose credentials still count, to what `read` reads."""

    async def check() -> None:
        await request.app.state.guard.recheck_access(request, caller)
        await read()

    return StreamAccessCheck(check)
