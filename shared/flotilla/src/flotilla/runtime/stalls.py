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
async def stacks_of_stalls(after_s: float = STALLED_AFTER_S) -> AsyncIterator[None]:
    """Write the stacks of all threads to standard error when the event loop makes no turn for `after_s`."""
    watch = asyncio.create_task(_put_off(after_s), name="stalls")
    try:
        yield
    finally:
        watch.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _put_off(after_s: float) -> None:
    while True:
        faulthandler.dump_traceback_later(after_s)
        await asyncio.sleep(after_s / 5)
