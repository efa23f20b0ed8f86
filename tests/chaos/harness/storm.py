"""The whole path under a storm: writers, outbox, relays, Kafka, audit consumers, chain and checkpoints."""

import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from flotilla.audit.verify import HistoryVerifier
from flotilla.config.signing import create_key_pair, load_public_keys
from flotilla.contracts.names import session_key
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import open_pool
from flotilla_devstack import RunningStack
from tests.chaos.harness.faults import Plan, torment
from tests.chaos.harness.verdict import Verdict, judge
from tests.chaos.harness.world import World, open_world
from tests.chaos.harness.writers import Load, write
from tests.support.audit import Projected, until_anchored
from tests.support.session_events import TENANT, read_topic

EVENTS = "SELECT tenant_id, session_id, seq, event_id FROM audit.session_events ORDER BY seq"
HEAL_S = 240.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Crew:
    """How many of each service; faults number the relays first."""

    relays: int
    consumers: int


async def storm(stack: RunningStack, folder: Path, crew: Crew, *, seed: int, load: Load, faults: Plan) -> Verdict:
    """Torments the crew and its servers while writers write; once all is healed, everything must hold.

    What was committed is in Kafka (the verdict says how), in the projection, each event once, and in the proof.
    """
    create_key_pair(folder / "audit.pem", folder / "audit.pub")
    async with open_world(stack) as world:
        world.run("outbox-relay", count=crew.relays)
        world.run(
            "audit-consumer",
            count=crew.consumers,
            FLOTILLA_AUDIT_SIGNING_KEY_FILE=str(folder / "audit.pem"),
            FLOTILLA_KAFKA_SESSION_TIMEOUT_MS="6000",
            FLOTILLA_CHECKPOINT_INTERVAL_S="1",
        )
        await world.ready()
        await torment(world, faults, write(world, load, seed))
        healed = time.monotonic()
        await world.outbox_drained(HEAL_S)
        records, committed = await read_topic(world.kafka), await world.committed()
        await Projected(world.database).until_offsets(len(records), timeout_s=HEAL_S)
        projected_s = time.monotonic() - healed
        await projection_holds(world, committed)
        await every_witness_agrees(world, folder / "audit.pub")
        verdict = judge(committed, records)
        log.info(
            "storm_over",
            seed=seed,
            committed=verdict.committed,
            records=verdict.records,
            duplicates=verdict.duplicates,
            projected_s=round(projected_s, 1),
            agreed_s=round(time.monotonic() - healed, 1),
        )
        return verdict


async def projection_holds(world: World, committed: dict[str, list[tuple[int, str]]]) -> None:
    """Exactly what was committed is projected, each event once, and nothing waits."""
    found: dict[str, list[tuple[int, str]]] = {}
    for row in await Projected(world.database).fetch(EVENTS):
        key = session_key(row["tenant_id"], row["session_id"])
        found.setdefault(key, []).append((row["seq"], str(row["event_id"])))
    assert await Projected(world.database).fetch("SELECT reason FROM audit.parked_events") == []
    assert found == committed


async def every_witness_agrees(world: World, public_key: Path) -> None:
    """Chain, checkpoints and Kafka agree with the projection, up to each session's last event."""
    await until_anchored(Projected(world.database), timeout_s=HEAL_S)
    async with open_pool(world.database.dsn(), application="test") as pool, open_kafka_log(world.kafka) as kafka:
        verdict = await HistoryVerifier(pool, TENANT, load_public_keys(public_key), kafka).verify_sessions()
    assert verdict.ok, verdict.problems[:5]
    assert all(session.anchored_seq == session.verified_seq for session in verdict.sessions)
    assert verdict.checkpoints > 0
