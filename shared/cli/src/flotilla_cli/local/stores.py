"""Looks into outbox, Kafka and projection of the local stack, past the services, to see that they agree."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flotilla.config import KafkaSettings, load_settings
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.names import SESSION_EVENTS_TOPIC
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import ITSELF, Pool, acting_as, open_pool, tenant_transaction
from flotilla_cli.errors import CliError
from flotilla_cli.printing import Document
from flotilla_devstack import Stack

TENANT = "default"
PROJECTED_WITHIN_S = 30.0
_POLL_S = 0.05
# The session's own events as the audit consumer wrote them.
_SELECT_PROJECTED_SESSION_EVENTS = (
    "SELECT seq, body FROM audit.session_events WHERE tenant_id = $1 AND session_id = $2 ORDER BY seq"
)
# Events that the relay has not yet taken to Kafka.
_SELECT_WAITING_EVENT_OUTBOX = "SELECT count(*) FROM flotilla.event_outbox WHERE tenant_id = $1 AND session_id = $2"


@dataclass(frozen=True)
class StoredEventCopies:
    """What each store holds of one session: seq → the event's bytes."""

    partition: int
    waiting: int
    in_kafka: Mapping[int, bytes]
    projected: Mapping[int, bytes]

    @property
    def seqs(self) -> list[int]:
        """The sequence numbers of the projection."""
        return sorted(self.projected)

    def projected_events(self) -> list[Document]:
        """The projection's events, decoded."""
        return [json.loads(self.projected[seq]) for seq in self.seqs]

    def disagreements(self, first_seq: int, head_seq: int) -> list[str]:
        """Why they do not agree; empty when they do."""
        expected = list(range(first_seq, head_seq + 1))
        found = []
        if self.seqs != expected:
            found.append(f"the projection holds seq {_ranges(self.seqs)}, not {_ranges(expected)}")
        if dict(self.in_kafka) != dict(self.projected):
            different = [seq for seq in expected if self.in_kafka.get(seq) != self.projected.get(seq)]
            found.append(f"Kafka and the projection differ at seq {_ranges(different)}")
        if self.waiting:
            found.append(f"{self.waiting} events still wait in the outbox")
        return found + self._wrong_sequences()

    def _wrong_sequences(self) -> list[str]:
        wrong = [seq for seq, body in self.projected.items() if decode_event(body).sequence != seq]
        return [f"events at seq {_ranges(wrong)} carry another sequence"] if wrong else []


def _ranges(seqs: Sequence[int]) -> str:
    return f"{seqs[0]}..{seqs[-1]} ({len(seqs)})" if seqs else "none"


def read_event_copies(state: Path, session_id: str, head_seq: int) -> StoredEventCopies:
    """All three stores, once the projection has reached `head_seq` and the outbox had time to drain.

    Raises:
        CliError: it does not within 30 s.
    """
    with Stack.attach(state) as stack:
        dsn, kafka = stack.postgres_dsn(user="flotilla_gateway"), stack.kafka_settings("gateway")
    return asyncio.run(_read(dsn, kafka, session_id, head_seq))


async def _read(dsn: str, kafka: Mapping[str, str], session_id: str, head_seq: int) -> StoredEventCopies:
    settings = load_settings(KafkaSettings, **kafka, kafka_session_events_topic=SESSION_EVENTS_TOPIC)
    async with open_pool(dsn, application="flotilla-demo", max_size=1) as pool, open_kafka_log(settings) as log:
        with acting_as(ITSELF):  # the owner of the local stack sees every session
            projected = await _projected_up_to(pool, session_id, head_seq)
            waiting = await _left_waiting(pool, session_id)
        logged = await log.read_session_events(TENANT, session_id)
    return StoredEventCopies(
        lane_of_session(TENANT, session_id), waiting, {event.seq: event.body for event in logged}, projected
    )


async def _projected_up_to(pool: Pool, session_id: str, head_seq: int) -> dict[int, bytes]:
    try:
        async with asyncio.timeout(PROJECTED_WITHIN_S):
            while head_seq not in (projected := await _projected(pool, session_id)):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        message = f"event {head_seq} of session {session_id} is not in the projection after {PROJECTED_WITHIN_S:g} s"
        raise CliError(message, "flotilla logs audit-consumer and flotilla logs outbox-relay say why") from None
    return projected


async def _projected(pool: Pool, session_id: str) -> dict[int, bytes]:
    async with tenant_transaction(pool, TENANT) as connection:
        return {
            row["seq"]: row["body"]
            for row in await connection.fetch(_SELECT_PROJECTED_SESSION_EVENTS, TENANT, session_id)
        }


async def _left_waiting(pool: Pool, session_id: str) -> int:
    """What stays in the outbox: the relay deletes after Kafka's acknowledgement, maybe after the projection has it."""
    deadline = time.monotonic() + PROJECTED_WITHIN_S
    while (waiting := await _waiting(pool, session_id)) and time.monotonic() < deadline:  # noqa: ASYNC110 - the relay's
        await asyncio.sleep(_POLL_S)
    return waiting


async def _waiting(pool: Pool, session_id: str) -> int:
    async with tenant_transaction(pool, TENANT) as connection:
        return int(await connection.fetchval(_SELECT_WAITING_EVENT_OUTBOX, TENANT, session_id))
