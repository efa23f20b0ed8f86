"""Where the process stands when its event loop stands still: liveness fails then, and the restart takes the evidence.

The stacks go to standard error from a thread that does not need the interpreter's lock (source: Python's manual,
"faulthandler"), so a loop that is blocked in C code shows, too.
"""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

STALLED_AFTER_S = 10.0


@asynccontextmanager
async def dump_stacks_on_stall(after_s: float = STALLED_AFTER_S) -> AsyncIterator[None]:
    """Write the stacks of all threads to standard error when the event loop makes no turn for `after_s`."""
    watch = _Watch(asyncio.get_running_loop(), after_s)
    watch.put_off()
    try:
        yield
    finally:
        watch.end()


class _Watch:
    """Puts the dump off at each turn. A timer of the loop, and no task: nothing can cancel it on its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float) -> None:
        self._loop = loop
        self._after_s = after_s
        self._timer: asyncio.TimerHandle | None = None

    def put_off(self) -> None:
        """Start the time again."""
        faulthandler.dump_traceback_later(self._after_s)
        self._timer = self._loop.call_later(self._after_s / 5, self.put_off)

    def end(self) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()
