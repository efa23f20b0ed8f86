"""A fleet of a former version, with data, parked approvals and runs in flight, is upgraded without a failed request.

    git worktree add /elsewhere TAG && make -C /elsewhere setup
    python -m tests.chaos.upgrade /elsewhere [--seed N]

The order is that of UPGRADING.md: today's install runs while the former services are up, they go on working on the new
schema, and each service is then replaced, in an order drawn from the seed: the new process is ready before the old one
is asked to stop. Requests are sent the whole time; one that fails ends the program with 1, and so does a run that does
not succeed, an approval that is lost, or a history that does not verify. It is no part of `make test-chaos`, since it
needs a worktree of the former version.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flotilla_devstack import Stack
from tests.chaos.upgrade.fleet import SERVICES, MixedFleet
from tests.chaos.upgrade.traffic import Traffic
from tests.e2e.stub_endpoint import stub_endpoint

ANSWER = "Every mooring line is inspected by the harbour master on the first Monday of the month [1]."
WORD_S = 0.3
"""Between two words of an answer: a run takes about six seconds, so several are always in flight."""
MODEL = {"OPENAI_API_KEY": "test", "FLOTILLA_LLM_MODEL": "stub"}
SETTLE_S = 15.0
"""How long the former services work on the new schema before the first is replaced."""


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def upgrade(former: Path, seed: int) -> bool:
    """Run it all in a folder of its own; return whether everything held."""
    with tempfile.TemporaryDirectory(prefix="flotilla-upgrade-") as folder, stub_endpoint() as model:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user
        with model.saying(ANSWER, delay_s=WORD_S), Stack(folder) as stack:
            fleet = MixedFleet(stack, former, {"OPENAI_BASE_URL": model.url, **MODEL})
            try:
                return asyncio.run(_upgraded(fleet, seed))
            finally:
                fleet.stop()


async def _upgraded(fleet: MixedFleet, seed: int) -> bool:
    await fleet.install_former()
    await fleet.start_former()
    say("the former version serves")
    traffic = Traffic(fleet)
    await traffic.prepare()
    async with traffic.flowing():
        await traffic.until_runs(3)
        say("runs are in flight, approvals are parked")
        await fleet.install_today()
        say("migrations of today are applied, the former services go on")
        await asyncio.sleep(SETTLE_S)
        order = random.Random(seed).sample(SERVICES, len(SERVICES))  # noqa: S311 - repeatable, not secret
        for service in order:
            started = len(traffic.runs)
            await fleet.replace(service)
            await traffic.until_runs(started + 2)
            say(f"{service} is replaced; {traffic.summary()}")
    await fleet.retire_former_role()
    return await traffic.judged(say)


def main(argv: Sequence[str] | None = None) -> int:
    """Upgrade once; 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade", description=__doc__)
    parser.add_argument("former", type=Path, help="a worktree of the former version with its .venv")
    parser.add_argument("--seed", type=int, default=1, help="decides in which order services are replaced")
    arguments = parser.parse_args(argv)
    return 0 if upgrade(arguments.former.resolve(), arguments.seed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
