"""One scenario: calm, a fault under load, recovery, and the judge's verdict."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

from tests.ha.harness.callers import Callers
from tests.ha.harness.fleet import Fleet
from tests.ha.harness.items import Item
from tests.ha.harness.judge import Judge, Verdict
from tests.ha.harness.load import Load, Pace, add_handbook

CALM_S = 8.0
_NEVER = float("inf")
_TOO_LONG_S = 180.0
_LOOK_S = 0.2

Fault: TypeAlias = Callable[[Fleet, random.Random], AbstractAsyncContextManager[float]]
"""Does harm when it is entered, gives the time from which recovery counts, and makes the servers whole when left."""


@dataclass(frozen=True)
class Scenario:
    """A fault by name, and within how many seconds a fleet must have recovered from it."""

    name: str
    fault: Fault
    within_s: float


async def play(fleet: Fleet, scenario: Scenario, *, seed: int, pace: Pace | None = None) -> Verdict:
    """Carry out the scenario on a fleet that works, and judge it."""
    batch = f"{re.sub('[^a-z0-9]+', '-', scenario.name.lower())[:40]}-{seed}-{time.time_ns() % 10**6}"
    restarts = fleet.restarts()
    async with with_callers(fleet) as callers:
        load = Load(fleet, callers, batch, pace or Pace())
        async with load.flowing():
            await calm(load)
            calm_s = _slowest(load.items)
            async with scenario.fault(fleet, random.Random(seed)) as recovering:  # noqa: S311 - repeatable
                recovery_s = await recovery(load.items, recovering)
            await asyncio.sleep(CALM_S / 4)
        verdict = await judged(fleet, scenario.name, load)
    return replace(verdict, calm_s=calm_s, recovery_s=recovery_s, restarts=fleet.restarts() - restarts)


@asynccontextmanager
async def with_callers(fleet: Fleet) -> AsyncIterator[Callers]:
    """People with keys, and a document that their questions are about."""
    async with Callers.of(fleet.url, {name: fleet.key(name) for name in ("alice", "bob")}) as callers:
        await add_handbook(callers)
        yield callers


async def calm(load: Load) -> None:
    """Wait until work of each kind and place was done once, and some time went by."""
    until = time.monotonic() + CALM_S
    while time.monotonic() < until or not each_over(load.items, since=0):
        assert time.monotonic() < until + _TOO_LONG_S, f"no calm: {_still_open(load.items)}"
        await asyncio.sleep(_LOOK_S)


async def recovery(items: Sequence[Item], since: float) -> float:
    """Wait until work of each kind and place that began after `since` is over; return the seconds it took."""
    while (over := each_over(items, since=since)) is None:
        if time.monotonic() > since + _TOO_LONG_S:
            return _NEVER
        await asyncio.sleep(_LOOK_S)
    return over - since


def each_over(items: Sequence[Item], since: float) -> float | None:
    """When the last of all kinds and places had its first work over, of that begun after `since`; None: not yet."""
    first: dict[tuple[str, str], float] = {(item.kind, item.place): _NEVER for item in items}
    for item in items:
        if item.began >= since and item.over is not None:
            key = (item.kind, item.place)
            first[key] = min(first[key], item.over)
    last = max(first.values(), default=_NEVER)
    return None if last == _NEVER else last


def _slowest(items: Sequence[Item]) -> float:
    return max((item.over - item.began for item in items if item.over is not None), default=0.0)


def _still_open(items: Sequence[Item]) -> list[str]:
    return [f"{item.kind} {item.name}" for item in items if item.over is None][:10]


async def judged(fleet: Fleet, name: str, load: Load) -> Verdict:
    """The verdict on all that a load did, once it is over; how long recovery took is for the caller to add."""
    judge = Judge.of(fleet, load.batch)
    kinds = [item.kind for item in load.items]
    lost = await judge.lost(load.items)
    return Verdict(
        name=name,
        counts={"event": await judge.events(), "run": kinds.count("run"), "approval": kinds.count("approval")},
        lost=lost,
        doubled=await judge.doubled(),
        out_of_order=await judge.out_of_order(),
        chain=await judge.chain(),
        slowest_run_s=_slowest([item for item in load.items if item.kind == "run"]),
        seen=dict(load.callers.seen),
        slowest_request_s=load.callers.slowest_s,
    )
