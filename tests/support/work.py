"""Whether the work on a text grows with its length or faster."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
GROWTH = 2.5
"""What twice the input may cost, on the way to four times."""
_ROUNDS = 3
_AT_LEAST_S = 0.002
"""Below it the allocator counts for more than the work."""
_ATTEMPTS = 6


def cpu_s(function: Callable[[T], object], value: T) -> float:
    """The least CPU time of this thread that `function` takes on `value`, in seconds; a refusal counts as an answer."""
    return min(_once(function, value) for _ in range(_ROUNDS))


def assert_linear(
    function: Callable[[T], object], make: Callable[[int], T], size: int = 2_000, most: int = 10_000_000
) -> None:
    """Asserts that twice the input costs at most 2.5 times the work, twice over: 6.25 times for four times the input.

    `make(n)` is the worst input of length n. The length starts where the work can be measured; work that is quadratic
    is far over the limit there: 16 times. Compared are the least times of all attempts: others use the machine, too,
    and one doubling alone is too close to its limit for that. Work that can't be measured on `most`, the longest input
    that is taken, is none.
    """
    while cpu_s(function, make(size)) < _AT_LEAST_S:  # the least: what comes once, at the first call, is no work on it
        size *= 2
        if size > most:
            return
    least = [float("inf")] * 2
    for _ in range(_ATTEMPTS):
        least = [min(known, cpu_s(function, make(size * n))) for known, n in zip(least, (1, 4), strict=True)]
        if least[1] <= GROWTH**2 * least[0]:
            return
    raise AssertionError(f"{size} characters and four times as many take {least} s")


def _once(function: Callable[[T], object], value: T) -> float:
    started = time.thread_time()
    with suppress(Exception):
        function(value)
    return time.thread_time() - started
