"""The counted votes about an action, as its session's log has them."""

from typing import Any

import msgspec

from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.contracts.errors import RetryLater, Undecodable
from flotilla.eventstore.log import SessionLog
from flotilla.postgres import Pool, tenant_transaction
from flotilla.votes.quorum import CountedVote

VOTE_COUNTED_CHANGE = "approval_counted"
_SELECT_VOTE_SEQS = """
SELECT event_seq FROM flotilla.approval_decisions
WHERE tenant_id = $1 AND approval_id = $2 AND outcome = 'counted' AND event_seq IS NOT NULL ORDER BY event_seq LIMIT $3
"""
_SELECT_TASK_VOTES = "SELECT body FROM flotilla.task_votes($1)"
MAX_VOTES_READ = 1000
"""Votes that are looked at; nobody needs more."""


class _CountedVoteDetails(msgspec.Struct, frozen=True):
    action_id: str


async def load_counted_votes(pool: Pool, tenant_id: str, session_id: str, approval_id: str) -> list[CountedVote]:
    """Return the votes about `approval_id` in the order of the log.

    Where they stand is looked up in the inbox, what they say is read from the log.

    Raises:
        RetryLater: their events are on the way from the outbox to the projection.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        rows = await connection.fetch(_SELECT_VOTE_SEQS, tenant_id, approval_id, MAX_VOTES_READ)
    log = SessionLog(pool, tenant_id)
    votes = []
    for row in rows:
        page = await log.read_page(session_id, row["event_seq"], row["event_seq"])
        votes += [vote for body in page.bodies if (vote := counted_vote_from_event(decode_event(body), approval_id))]
    return votes


async def load_task_call_votes(pool: Pool, tenant_id: str, approval_id: str) -> list[CountedVote]:
    """Return the votes about a call of the task that the transaction holds, in the order of the log.

    Raises:
        RetryLater: their events are on the way from the outbox to the projection.
    """
    async with tenant_transaction(pool, tenant_id) as connection:
        bodies = [row["body"] for row in await connection.fetch(_SELECT_TASK_VOTES, approval_id)]
    if None in bodies:
        raise RetryLater(f"the votes about {approval_id} are not projected yet: try again in a moment")
    return [vote for body in bodies if (vote := counted_vote_from_event(decode_event(body), approval_id))]


def counted_vote_from_event(event: AgentEvent, approval_id: str) -> CountedVote | None:
    """Return the vote about `approval_id` that the event tells of; None for any other event."""
    if event.data.get("change") != VOTE_COUNTED_CHANGE:
        return None
    details: Any = event.data.get("details")
    try:
        if msgspec.convert(details, _CountedVoteDetails).action_id != approval_id:
            return None
        return msgspec.convert(details, CountedVote)
    except msgspec.ValidationError as error:
        raise Undecodable(f"event {event.id} is not a counted vote: {error}") from error
