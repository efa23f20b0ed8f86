"""Fault injection over real servers, seeded and repeatable: writers, faults, and what must hold afterwards.

    async with open_world(stack) as world:
        world.run("outbox-relay", count=3)
        await world.ready()
        await torment(world, Plan.drawn(7, over_s=60, every_s=5, services=3), write(world, Load(events=9000), seed=7))
        await world.outbox_drained()
        verdict = judge(await world.committed(), await read_topic(world.kafka))

Other consumers of the log (`world.run("audit-consumer")`) are tormented with the relays.
"""

from tests.chaos.harness.faults import Plan, torment
from tests.chaos.harness.verdict import Verdict, judge
from tests.chaos.harness.world import World, open_world
from tests.chaos.harness.writers import Load, write

__all__ = ["Load", "Plan", "Verdict", "World", "judge", "open_world", "torment", "write"]
