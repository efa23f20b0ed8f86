"""Real exports: written by the event store, projected, signed by several checkpoints, exported."""

from dataclasses import dataclass, field
from pathlib import Path

from flotilla.approvals.ballot import VoteRefusal
from flotilla.approvals.events import make_action_event, vote_attempted_event, vote_refused_event
from flotilla.audit.export import export_session
from flotilla.config.signing import PublicKeys, create_key_pair, load_public_keys, load_signer
from flotilla.contracts.approvals import DecisionRequest
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.eventstore import AgentEventStore
from flotilla.postgres import Pool
from tests.support.audit import Projected, outbox_bodies, project_directly, records_of
from tests.support.postgres import Database

TENANT = "default"


def said(content: str) -> AgentStateEvent:
    return AgentStateEvent(kind="message", data={"role": "user", "content": content}, source="/gateway")


@dataclass
class Recorder:
    """Writes histories and moves them into the projection, with or without a checkpoint."""

    pool: Pool
    audit_pool: Pool
    database: Database
    folder: Path
    _relayed: list[tuple[str, str, bytes]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        create_key_pair(self.folder / "audit.pem", self.public_key)
        self._signer = load_signer(self.folder / "audit.pem")
        self.store = AgentEventStore(self.pool)

    @property
    def public_key(self) -> Path:
        return self.folder / "audit.pub"

    def keys(self) -> PublicKeys:
        return load_public_keys(self.public_key)

    async def project(self, *, signed: bool = True) -> None:
        """Projects what is new, as if relayed, and makes a checkpoint per partition that got something."""
        projected = len(self._relayed)
        self._relayed += await outbox_bodies(self.database)
        await project_directly(self.audit_pool, records_of(self._relayed)[projected:], self._signer if signed else None)
        await Projected(self.database).execute("DELETE FROM flotilla.event_outbox")
        await self.audit_pool.execute("UPDATE audit.checkpoints SET published_at = now()")  # as if Kafka had a copy

    async def export(self, session_id: str) -> bytes:
        return b"".join([line async for line in export_session(self.pool, TENANT, session_id)])


async def recorded(recorder: Recorder) -> None:
    """A plain session, one that was rolled back, a governed one, and forks: of a fork, at 0, below a fork's start."""
    store = recorder.store
    for session in ("plain", "rolled", "governed"):
        await store.ensure_session(session, "ada")
    await store.append("plain", [said(f"m{number}") for number in range(1, 5)])
    await store.append("rolled", [said("einen Käufer 🦊"), said('"quoted" \\ and\nbroken'), said("third")])
    await recorder.project()
    await store.append("plain", [said("after the first checkpoint")])
    await store.rollback("rolled", 1)
    await store.append("governed", governed_events())
    await store.fork("plain", 3, "fork")
    await recorder.project()
    await store.append("fork", [said("another way")])
    await store.fork("fork", 2, "below")
    await store.fork("fork", 5, "twice")
    await store.fork("plain", 0, "blank")
    await recorder.project()
    await store.append("plain", [said("a parent goes on")])
    await store.append("fork", [said("so does a fork")])
    await recorder.project()


def governed_events() -> list[AgentStateEvent]:
    """An action that somebody asked for, an attempt to decide it, and its refusal."""
    attempt = DecisionRequest(
        approval_id="a1",
        attempt_id="t1",
        subject="ada",
        roles=["approver"],
        is_person=True,
        decision="approve",
        content_hash="0" * 64,
    )
    return [
        make_action_event("action_requested", "a1", {"action": "refund", "args": {"amount": 990, "rate": 1.5e18}}),
        vote_attempted_event(attempt, "v1"),
        vote_refused_event(attempt, VoteRefusal("SelfApproval", "nobody approves their own request"), "v1"),
    ]
