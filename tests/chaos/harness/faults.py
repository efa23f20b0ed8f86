"""What goes wrong, when, and to whom: drawn from a seed, carried out on a world."""

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal

from flotilla_devstack import ServiceProcess
from flotilla_devstack.unit import ManagedProcess
from tests.chaos.harness.world import World

Deed = Literal["kill", "pause", "restart-kafka", "restart-postgres"]


@dataclass(frozen=True)
class Fault:
    """One deed, `at_s` after the start; `victim` numbers the world's services."""

    at_s: float
    deed: Deed
    victim: int = 0


@dataclass(frozen=True)
class Plan:
    """All faults of a run, in order of time."""

    faults: Sequence[Fault]
    pause_s: float = 7.0
    """Longer than a lease, so that a paused process is succeeded and wakes as a second owner."""

    @classmethod
    def drawn(
        cls, seed: int, *, over_s: float, every_s: float, services: int, kafka_kills: int = 2, postgres_kills: int = 1
    ) -> "Plan":
        """A service killed or paused every `every_s`; server kills spread over the time. The same for the same seed."""
        draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
        deeds: list[Deed] = ["kill", "pause"]
        faults = [
            Fault(number * every_s, draw.choice(deeds), draw.randrange(services))
            for number in range(1, int(over_s / every_s) + 1)
        ]
        kafka: Deed = "restart-kafka"
        postgres: Deed = "restart-postgres"
        servers = [kafka] * kafka_kills + [postgres] * postgres_kills
        draw.shuffle(servers)
        for number, deed in enumerate(servers, start=1):
            faults.append(Fault(over_s * number / (len(servers) + 1) + draw.uniform(-1, 1), deed))
        return cls(sorted(faults, key=lambda fault: fault.at_s))


async def torment(world: World, plan: Plan, work: Awaitable[None]) -> None:
    """Carries out `plan` while `work` goes on; returns when both are over and everything runs again."""
    working = asyncio.ensure_future(work)
    began = time.monotonic()
    deeds = []
    for fault in plan.faults:
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        deeds.append(asyncio.create_task(_carry_out(world, plan, fault)))
    await asyncio.gather(working, *deeds)
    await _heal(world)


async def _carry_out(world: World, plan: Plan, fault: Fault) -> None:
    match fault.deed:
        case "restart-kafka":
            await _restart(world, world.kafka_server)
        case "restart-postgres":
            await _restart(world, world.postgres)
        case "kill":
            victim = world.services[fault.victim % len(world.services)]
            if victim.is_running():
                await asyncio.to_thread(victim.kill)
                victim.start()
        case "pause":
            await _pause(world.services[fault.victim % len(world.services)], plan.pause_s)


async def _pause(victim: ServiceProcess, pause_s: float) -> None:
    pid = victim.pid
    if pid is None:
        return
    victim.pause()
    await asyncio.sleep(pause_s)
    if victim.pid == pid:
        victim.resume()


async def _restart(world: World, server: ManagedProcess) -> None:
    # On a slow machine the next kill may be due before the server is back.
    async with world.restarting[server.name]:
        await asyncio.to_thread(_kill_and_start, server)


def _kill_and_start(server: ManagedProcess) -> None:
    server.kill()
    server.start()
    server.wait_ready()


async def _heal(world: World) -> None:
    for process in world.services:
        process.start()
        process.resume()
    await world.ready()
