"""Whether the work on a text grows with its length or faster."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
GROWTH = 2.5
"""What twice the input may cost."""
_ROUNDS = 3
_AT_LEAST_S = 0.001
_MAX_DOUBLINGS = 12
_ATTEMPTS = 3


def cpu_s(function: Callable[[T], object], value: T) -> float:
    """The least CPU time of this thread that `function` takes on `value`, in seconds; a refusal counts as an answer."""
    return min(_once(function, value) for _ in range(_ROUNDS))


def assert_linear(function: Callable[[T], object], make: Callable[[int], T], size: int = 2_000) -> None:
    """Asserts that twice the input costs at most 2.5 times the work, twice over.

    `make(n)` is the worst input of length n. The length starts where the work can be measured; work that is quadratic
    is far over the limit there.
    """
    for _ in range(_MAX_DOUBLINGS):
        if _once(function, make(size)) >= _AT_LEAST_S:
            break
        size *= 2
    for attempt in range(_ATTEMPTS):
        times = [cpu_s(function, make(size * factor)) for factor in (1, 2, 4)]
        if times[1] <= GROWTH * times[0] and times[2] <= GROWTH * times[1]:
            return
        if attempt == _ATTEMPTS - 1:
            raise AssertionError(f"{size} characters and twice, four times as many take {times} s")


def _once(function: Callable[[T], object], value: T) -> float:
    started = time.thread_time()
    with suppress(Exception):
        function(value)
    return time.thread_time() - started
