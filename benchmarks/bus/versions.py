"""Prints the processor time of an entry in this version and in another one, in turns on one private Redis.

    python -m benchmarks.bus.versions CHECKOUT [--rounds 12] [--entries 3000]

CHECKOUT is a folder of the other version in which `make setup` was run. Processor time hardly depends on what else the
machine does, and the ratios of each round still less.
"""

import argparse
import asyncio
import statistics
from pathlib import Path

from benchmarks.bus.__main__ import consume
from flotilla.bus import connect_redis
from flotilla.bus.functions import load_redis_functions
from flotilla_devstack import stack_for_tests

PEERS = ("bare", "flotilla")


async def run(url: str, other: Path, rounds: int, entries: int) -> None:
    """All rounds, then the table."""
    taken: dict[tuple[str, str], list[float]] = {}
    async with connect_redis(url) as redis:
        await load_redis_functions(redis)
        for number in range(rounds):
            versions = [("before", other), ("now", None)]
            for name, checkout in versions if number % 2 else reversed(versions):
                for peer in PEERS:
                    report = await consume(peer, url, redis, entries, None, checkout=checkout)
                    taken.setdefault((name, peer), []).append(report["cpu_us"])
    for (name, peer), figures in sorted(taken.items()):
        print(f"{name:8}{peer:10}{statistics.median(figures):8.1f} us ({min(figures):.1f} to {max(figures):.1f})")
    for name in ("before", "now"):
        show(f"{name}: over a loop by hand", taken[name, "flotilla"], taken[name, "bare"])
    show("now over before", taken["now", "flotilla"], taken["before", "flotilla"])


def show(title: str, figures: list[float], base: list[float]) -> None:
    """The median of the rounds' ratios, with their spread."""
    ratios = [one / other for one, other in zip(figures, base, strict=True)]
    print(f"{title}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--entries", type=int, default=3_000)
    chosen = parser.parse_args()
    with stack_for_tests(()) as stack, stack.extra_redis() as server:
        asyncio.run(run(server.url, chosen.checkout.resolve(), chosen.rounds, chosen.entries))


if __name__ == "__main__":
    main()
