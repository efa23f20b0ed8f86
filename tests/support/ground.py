"""A history to damage: two sessions, one a fork of the other, projected and anchored."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from audit_consumer.checkpoints import publish_checkpoints
from flotilla.audit.chain import ChainProblem
from flotilla.audit.export import export_session
from flotilla.audit.proof import next_chain_hash
from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.config import KafkaSettings
from flotilla.config.signing import create_key_pair, load_public_keys, load_signer
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool
from tests.support.audit import (
    Projected,
    outbox_bodies,
    producing,
    project_directly,
    publish_bodies,
    records_of,
)
from tests.support.postgres import Database


def message(content: str) -> AgentStateEvent:
    return AgentStateEvent(kind="message", data={"role": "user", "content": content}, source="/test")


@dataclass(frozen=True)
class Ground:
    """Sessions s1 (10 events) and s2 (its fork at 6, then 3 events), projected and anchored."""

    pool: Pool
    audit_pool: Pool
    bodies: list[tuple[str, str, bytes]]
    kafka: KafkaSettings
    projected: Projected
    folder: Path

    async def into_kafka(self) -> None:
        """Makes Kafka a witness: the events and the checkpoints as they are now."""
        await publish_bodies(self.kafka, self.bodies)
        async with producing(self.kafka) as producer:
            for partition in range(SESSION_EVENTS_PARTITIONS):
                await publish_checkpoints(self.audit_pool, producer, self.kafka.kafka_checkpoints_topic, partition)

    async def verify(self, session_id: str | None = "s1", *, with_kafka: bool = False) -> Verdict:
        keys = load_public_keys(self.folder / "audit.pub")
        if not with_kafka:
            return await HistoryVerifier(self.pool, "default", keys).verify_sessions(session_id)
        async with open_kafka_log(self.kafka) as log:
            return await HistoryVerifier(self.pool, "default", keys, log).verify_sessions(session_id)

    async def first_bad(self, session_id: str | None = "s1", *, with_kafka: bool = False) -> tuple[str, int | None]:
        """Kind and seq of the one problem."""
        verdict = await self.verify(session_id, with_kafka=with_kafka)
        assert not verdict.ok
        problems: list[ChainProblem] = verdict.problems
        assert len({(problem.kind, problem.seq) for problem in problems}) == 1, problems
        return problems[0].kind, problems[0].seq

    async def export(self, session_id: str) -> list[bytes]:
        return [line async for line in export_session(self.pool, "default", session_id)]

    async def rechain(self, session_id: str, start: bytes) -> None:
        """What somebody with all rights in PostgreSQL does: every hash made again."""
        chain = start
        for row in await self.projected.fetch(
            "SELECT seq, body FROM audit.session_events WHERE session_id = $1 ORDER BY seq", session_id
        ):
            chain = next_chain_hash(chain, row["body"])
            await self.projected.execute(
                "UPDATE audit.session_events SET hash = $3 WHERE session_id = $1 AND seq = $2",
                session_id,
                row["seq"],
                chain,
            )
        await self.projected.execute(
            "UPDATE audit.session_heads SET hash = $2 WHERE session_id = $1", session_id, chain
        )


@pytest.fixture
async def ground(
    pool: Pool, audit_pool: Pool, database: Database, *, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> Ground:
    store = AgentEventStore(pool)
    await store.ensure_session("s1", "ada")
    await store.append("s1", [message(f"m{number}") for number in range(1, 11)])
    await store.fork("s1", 6, "s2")
    await store.append("s2", [message("other"), message("way")])
    create_key_pair(tmp_path / "audit.pem", tmp_path / "audit.pub")
    bodies = await outbox_bodies(database)
    await project_directly(audit_pool, records_of(bodies), load_signer(tmp_path / "audit.pem"))
    await projected.execute("DELETE FROM flotilla.event_outbox")
    return Ground(pool, audit_pool, bodies, kafka, projected, tmp_path)
