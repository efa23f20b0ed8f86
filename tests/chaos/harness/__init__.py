"""Fault injection over real servers, seeded and repeatable: writers, faults, and what must hold afterwards.

    faults = Plan.drawn(7, over_s=60, every_s=5, services=3)
    verdict = await storm(stack, folder, Crew(relays=3, consumers=2), seed=7, load=Load(events=9000), faults=faults)
    assert verdict.holds(), verdict

`open_world`, `torment` and `judge` are its parts, for storms over other services.
"""

from tests.chaos.harness.faults import Plan, torment
from tests.chaos.harness.storm import Crew, storm
from tests.chaos.harness.verdict import Verdict, judge
from tests.chaos.harness.world import World, open_world
from tests.chaos.harness.writers import Load, write

__all__ = ["Crew", "Load", "Plan", "Verdict", "World", "judge", "open_world", "storm", "torment", "write"]
