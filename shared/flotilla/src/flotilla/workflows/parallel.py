"""Several steps at the same time, within a window."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from temporalio.exceptions import FailureError

T = TypeVar("T")


async def gather_windowed(
    steps: Sequence[Coroutine[Any, Any, T]], at_once: int, *, collect: bool
) -> list[T | FailureError]:
    """Return what the steps return, in their order; no more than `at_once` of them are under way.

    With `collect` a failed step's error takes the place of its result; else the first failure ends the others, those
    that have not begun too, and is raised once they have ended.

    Raises:
        ValueError: `at_once` is below 1.
        FailureError: a step failed.
    """
    results: list[Any] = [None] * len(steps)
    waiting = iter(enumerate(steps))
    lines = [
        asyncio.create_task(_run_steps_in_turn(waiting, results, collect=collect))
        for _ in range(min(at_once, len(steps)))
    ]
    try:
        if at_once < 1:
            raise ValueError(f"at_once is {at_once}: at least 1 step has to be under way")
        await asyncio.gather(*lines)
    finally:
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        for step in steps:
            step.close()
    return results


async def _run_steps_in_turn(
    waiting: Iterator[tuple[int, Coroutine[Any, Any, T]]], results: list[T | FailureError], *, collect: bool
) -> None:
    for place, step in waiting:
        try:
            results[place] = await step
        except FailureError as error:
            if not collect:
                raise
            results[place] = error
