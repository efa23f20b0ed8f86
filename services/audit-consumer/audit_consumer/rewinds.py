"""Decisions by which projected events gave way: the session's signed heads no longer fit, so the next checkpoint of its
partition signs the decision, and those heads no longer count.
"""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from audit_consumer.projection_rows import SessionKey
from flotilla.audit.proof import genesis_hash
from flotilla.postgres import Connection

_ADD_REWIND = """
INSERT INTO audit.rewinds (tenant_id, session_id, from_seq, base_hash, old_seq, old_hash, request_id, decided_by,
    reason, kafka_partition)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryDecision:
    """Who decided about which session, and why."""

    session: SessionKey
    request_id: str
    by: str
    reason: str
    asked_at: datetime

    def __str__(self) -> str:
        return f"by {self.by}: {self.reason}"


def chain_hash_before(session: SessionKey, head: asyncpg.Record, from_seq: int, before: bytes | None) -> bytes:
    """The chain's hash in front of `from_seq`: that of the event before, else where the chain begins."""
    if from_seq > head["first_seq"] and before is not None:
        return before
    return genesis_hash(*session, head["parent_session_id"], head["first_seq"] - 1)


async def add_rewind(
    connection: Connection, decision: HistoryDecision, head: asyncpg.Record, from_seq: int, base: bytes
) -> None:
    """Note that the events from `from_seq` to the old `head` gave way."""
    who = (decision.request_id, decision.by, decision.reason)
    old = (head["seq"], head["hash"])
    await connection.execute(_ADD_REWIND, *decision.session, from_seq, base, *old, *who, head["kafka_partition"])
