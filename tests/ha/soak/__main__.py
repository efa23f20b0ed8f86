"""Keep a fleet at work for hours, with a fault each minute, and look whether what it uses is flat.

    python -m tests.ha.soak --seconds 7200 --seed 1 --csv soak.csv

Prints a line for each fault, the verdict on all work, and the trend of each process; exit code 1 if anything was lost,
doubled or out of order, callers saw what they must not, or something grew.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.ha.faults import kafka, postgres, redis, services, temporal
from tests.ha.harness.fleet import Fleet, running_fleet
from tests.ha.harness.judge import HEADER, Verdict
from tests.ha.harness.load import Load, Pace
from tests.ha.harness.scenario import Fault, calm, judged, recovery, with_callers
from tests.ha.soak.trend import trends
from tests.ha.soak.usage import Recorder

EVERY_S = 60.0
# A tenth of what two cores carry beside the servers: 2 runs/s.
PACE = Pace(run_s=5, approval_s=10, event_s=4)
FAULTS: Sequence[Fault] = (
    kafka.leader_stopped,
    kafka.leader_killed,
    kafka.leader_frozen,
    kafka.leader_unreachable,
    postgres.switched_over,
    postgres.FAILOVER.primary_killed,
    postgres.FAILOVER.silent_death,
    postgres.read_only,
    redis.switched_over,
    redis.tail_lost,
    redis.FAILOVER.silent_death,
    temporal.killed,
    temporal.node_gone,
    services.one_killed,
)


def say(line: str) -> None:
    """Print at once: a run takes hours."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


async def soak(fleet: Fleet, seconds: float, seed: int, file: Path) -> list[str]:
    """Return what is wrong at the end."""
    recorder = Recorder(fleet, file)
    stop = asyncio.Event()
    recording = asyncio.create_task(recorder.record(stop))
    try:
        verdict = await _tormented(fleet, seconds, random.Random(seed))  # noqa: S311 - repeatable, not secret
    finally:
        stop.set()
        await recording
    say(f"{HEADER}\n{verdict.line()}")
    found = list(trends(recorder.rows))
    for trend in found:
        say(trend.line())
    not_alive = [f"not alive for half a minute: {service}" for service in fleet.not_alive()]
    return [*verdict.problems(), *not_alive, *(f"{trend.name}: {trend.measure} grew" for trend in found if trend.grew)]


async def _tormented(fleet: Fleet, seconds: float, draw: random.Random) -> Verdict:
    worst, restarts = 0.0, fleet.restarts()
    async with with_callers(fleet) as callers:
        load = Load(fleet, callers, f"soak-{time.time_ns() % 10**9}", PACE)
        async with load.flowing():
            await calm(load)
            end = time.monotonic() + seconds
            while (next_at := time.monotonic() + EVERY_S) < end + EVERY_S:
                worst = max(worst, await _one_fault(fleet, load, draw))
                await asyncio.sleep(max(0.0, min(next_at, end) - time.monotonic()))
        verdict = await judged(fleet, f"soak of {seconds:g} s", load)
    return replace(verdict, recovery_s=worst, restarts=fleet.restarts() - restarts)


async def _one_fault(fleet: Fleet, load: Load, draw: random.Random) -> float:
    fault = draw.choice(FAULTS)
    async with fault(fleet, draw) as recovering:
        took = await recovery(load.items, recovering)
    say(f"{fault.__module__.rpartition('.')[2]} {fault.__name__}: recovered after {took:.1f} s")
    return took


def main() -> int:
    """Run one soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.ha.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flotilla-soak-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user where this runs as root
        with running_fleet(Path(folder)) as fleet:
            problems = asyncio.run(soak(fleet, given.seconds, given.seed, given.csv))
    for problem in problems:
        say(f"WRONG {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
