"""Waiting for conditions, always with a deadline."""

import threading
import time
from collections.abc import Callable

from flotilla_devstack.errors import DeadlineError, InterruptedStartError


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout_s: float,
    what: str,
    interval_s: float = 0.02,
    cancelled: threading.Event | None = None,
) -> None:
    """Return as soon as `condition()` is true; it is tried at least once, and once more at the deadline.

    Raises:
        DeadlineError: after `timeout_s` seconds, naming `what`.
        InterruptedStartError: `cancelled` was set meanwhile.
    """
    deadline = time.monotonic() + timeout_s
    pause = cancelled or threading.Event()
    while not condition():
        if time.monotonic() >= deadline:
            raise DeadlineError(f"{what}: not within {timeout_s:g} s")
        if pause.wait(interval_s):
            raise InterruptedStartError(f"{what}: given up, a stop was asked for")
