"""Three audit consumers and a relay, killed and paused, their servers too, while writers write."""

from pathlib import Path

import pytest

from flotilla.contracts.names import session_key
from flotilla.eventstore import open_kafka_log
from flotilla.eventstore.signing import create_key_pair, load_public_keys
from flotilla.eventstore.verify import Verifier
from flotilla.postgres import open_pool
from flotilla_devstack import RunningStack
from tests.chaos.harness import Load, Plan, World, judge, open_world, torment, write
from tests.support.audit import Projected, until_anchored
from tests.support.session_events import TENANT, read_topic

EVENTS = "SELECT tenant_id, session_id, seq, event_id FROM audit.session_events ORDER BY seq"


async def projected_events(world: World) -> dict[str, list[tuple[int, str]]]:
    """Per Kafka key, (seq, event id) of the projection."""
    found: dict[str, list[tuple[int, str]]] = {}
    for row in await Projected(world.database).fetch(EVENTS):
        key = session_key(row["tenant_id"], row["session_id"])
        found.setdefault(key, []).append((row["seq"], str(row["event_id"])))
    return found


async def torment_consumers(stack: RunningStack, folder: Path, *, seed: int, load: Load, faults: Plan) -> int:
    """Runs the storm; gives how many duplicates the projection had to drop."""
    create_key_pair(folder / "audit.pem", folder / "audit.pub")
    async with open_world(stack) as world:
        world.run(
            "audit-consumer",
            count=3,
            FLOTILLA_AUDIT_SIGNING_KEY_FILE=str(folder / "audit.pem"),
            FLOTILLA_KAFKA_SESSION_TIMEOUT_MS="6000",
            FLOTILLA_CHECKPOINT_INTERVAL_S="1",
        )
        world.run("outbox-relay", count=1)
        await world.ready()
        await torment(world, faults, write(world, load, seed))
        await world.outbox_drained()
        log = await read_topic(world.kafka)
        await Projected(world.database).until_offsets(len(log), timeout_s=120)
        committed = await world.committed()
        assert judge(committed, log).holds()
        assert await projected_events(world) == committed
        assert await Projected(world.database).fetch("SELECT reason FROM audit.parked_events") == []
        await until_anchored(Projected(world.database), timeout_s=60)
        await all_witnesses_agree(world, folder / "audit.pub")
        return judge(committed, log).duplicates


async def all_witnesses_agree(world: World, public_key: Path) -> None:
    async with open_pool(world.database.dsn(), application="test") as pool, open_kafka_log(world.kafka) as kafka:
        verdict = await Verifier(pool, TENANT, load_public_keys(public_key), kafka).verify()
    assert verdict.ok, verdict.problems[:5]
    assert all(session.anchored_seq == session.verified_seq for session in verdict.sessions)
    assert verdict.checkpoints > 0


@pytest.mark.timeout(400)
async def test_a_short_storm_leaves_exactly_what_was_committed(stack: RunningStack, tmp_path: Path) -> None:
    seed, over_s = 5, 14.0
    await torment_consumers(
        stack,
        tmp_path,
        seed=seed,
        load=Load(events=10_000, over_s=over_s),
        faults=Plan.drawn(seed, over_s=over_s, every_s=3.0, services=4, kafka_kills=1),
    )


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [3, 4])
async def test_a_long_storm_leaves_exactly_what_was_committed(stack: RunningStack, tmp_path: Path, seed: int) -> None:
    over_s = 120.0
    await torment_consumers(
        stack,
        tmp_path,
        seed=seed,
        load=Load(events=200_000, over_s=over_s),
        faults=Plan.drawn(seed, over_s=over_s, every_s=5.0, services=4),
    )
