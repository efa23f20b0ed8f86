"""`AgentEventStore`: everything one can do with a session's log, on a pool and nothing else.

async with open_pool("postgresql://flotilla_app@localhost/flotilla", application="notes") as pool:
    store = AgentEventStore(pool)
    await store.ensure_session("notes-1", user_id="ada")
    note = AgentStateEvent(kind="message", data={"role": "user", "content": "Hi"}, source="/notes")
    await store.append("notes-1", [note])
    for event in await store.replay("notes-1"):
        print(event.sequence, event.type, event.data)
    print((await store.state_at("notes-1")).messages)
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from flotilla.contracts.envelope import AgentEvent, from_builtins
from flotilla.contracts.errors import Invalid, Undecodable
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.session_events import DATA_OF_KIND, AgentStateEvent
from flotilla.eventstore.diff import StateDiff, diff_states
from flotilla.eventstore.log import LineageSegment, Page, PublishedEventLog, SessionLog
from flotilla.eventstore.sessions import Session, fork_session, get_session, open_session, roll_back_session
from flotilla.eventstore.state import SessionState
from flotilla.eventstore.time_travel import SessionStateReader
from flotilla.outbox import AppendedRange, append
from flotilla.postgres import Pool, tenant_transaction

SOURCE = "/eventstore"


class AgentEventStore:
    """The session logs of one tenant. Safe for concurrent use; opens nothing itself.

    Reads are complete up to the session's head, own writes included, whether or not relay and audit consumer run.
    Without `kafka`, events that the relay has taken and the audit consumer has not yet read raise RetryLater.
    """

    def __init__(
        self,
        pool: Pool,
        tenant_id: str = "default",
        kafka: PublishedEventLog | None = None,
        *,
        source: str = SOURCE,
        sealed_snapshots: bool = False,
    ) -> None:
        """With `sealed_snapshots` the pool's role may keep snapshots of encrypted events."""
        self._pool = pool
        self._tenant_id = tenant_id
        self._source = source
        self._log = SessionLog(pool, tenant_id, kafka)
        self._states = SessionStateReader(pool, tenant_id, self._log, sealed_snapshots=sealed_snapshots)

    async def ensure_session(self, session_id: str, user_id: str, metadata: JsonObject | None = None) -> Session:
        """The session, made if it is new. Calling it again changes nothing.

        Raises:
            Invalid: `session_id` is not 1 to 128 of `A-Z a-z 0-9 . _ : -`.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            session, _ = await open_session(connection, self._tenant_id, session_id, user_id, metadata)
        return session

    async def session(self, session_id: str) -> Session:
        """The session.

        Raises:
            NotFound: the tenant has no such session.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            return await get_session(connection, self._tenant_id, session_id)

    async def lineage(self, session_id: str) -> list[LineageSegment]:
        """Whose events make up the session's history: its own first, then its parent's prefix, and so on."""
        return await self._log.lineage(session_id)

    async def append(
        self, session_id: str, events: Sequence[AgentStateEvent], expected_seq: int | None = None
    ) -> AppendedRange:
        """Adds `events` to the log in one transaction; with `expected_seq`, only if that is the log's head.

        To add events together with other changes, use `flotilla.outbox.append` on your own connection.

        Raises:
            NotFound: the tenant has no such session.
            SequenceConflict: the head is not `expected_seq`.
            Invalid: no events, one whose data does not fit its kind, or one over 900,000 bytes.
        """
        for event in events:
            _check_event_data(event)
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            return await append(connection, self._tenant_id, session_id, events, expected_seq=expected_seq)

    async def replay(self, session_id: str, from_seq: int = 1, to_seq: int | None = None) -> list[AgentEvent]:
        """The events from `from_seq` to `to_seq` (both included; by default to the head), in order of seq.

        The history of a fork includes its parent's prefix: those events keep the parent as their subject.

        Raises:
            NotFound: the tenant has no such session.
            RetryLater: committed events are out of reach; never a shorter list.
        """
        return [event async for event in self.stream(session_id, from_seq, to_seq)]

    async def stream(self, session_id: str, from_seq: int = 1, to_seq: int | None = None) -> AsyncIterator[AgentEvent]:
        """`replay` for very long sessions: holds 1,000 events at a time. Ends at the head as of the start."""
        async for events in self._log.events(session_id, from_seq, to_seq):
            for event in events:
                yield event

    async def read_page(self, session_id: str, from_seq: int = 1, to_seq: int | None = None) -> Page:
        """Up to 1,000 events from `from_seq` on, as the bytes that were appended."""
        return await self._log.read_page(session_id, from_seq, to_seq)

    async def state_at(self, session_id: str, seq: int | None = None, *, time: datetime | None = None) -> SessionState:
        """The state at event `seq`, or at the newest event not later than `time`, or at the head.

        Raises:
            NotFound: the tenant has no such session.
            Invalid: both are given, or `seq` is beyond the head, or `time` has no offset.
            RetryLater: committed events are out of reach.
        """
        if time is not None:
            if seq is not None:
                raise Invalid("state_at takes a seq or a time, not both")
            if time.tzinfo is None:
                raise Invalid(f"time {time.isoformat()} has no offset: give it one, for example {time.isoformat()}Z")
            seq = await self._states.find_last_seq_before_time(session_id, time)
        state, _ = await self._states.load_state_at(session_id, seq)
        return state

    async def diff(self, session_id: str, from_seq: int, to_seq: int) -> StateDiff:
        """What changed from the state at `from_seq` to the state at `to_seq`.

        Raises:
            NotFound: the tenant has no such session.
            Invalid: a seq is beyond the head.
            RetryLater: committed events are out of reach.
        """
        before, path_before = await self._states.load_state_at(session_id, from_seq)
        after, path_after = await self._states.load_state_at(session_id, to_seq)
        return diff_states(before, after, path_before, path_after)

    async def fork(
        self,
        session_id: str,
        at_seq: int,
        new_session_id: str | None = None,
        *,
        user_id: str | None = None,
        owner: str | None = None,
        by: JsonObject | None = None,
    ) -> Session:
        """A new session whose history is this one's up to `at_seq`; this one is not touched. Allowed during a run.

        `owner` is an identity as `flotilla.contracts.identity` writes it; without one this session's is the fork's.
        `by` is who asks, for the event.

        Raises:
            NotFound: the tenant has no such session.
            Invalid: `at_seq` is not between 0 and the head.
            Conflict: `new_session_id` is taken.
            SessionArchived: this one's events are in an archive.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            session, _ = await fork_session(
                connection,
                self._tenant_id,
                session_id,
                at_seq,
                new_session_id=new_session_id,
                user_id=user_id,
                source=self._source,
                owner=owner,
                by=by,
            )
        return session

    async def rollback(
        self, session_id: str, to_seq: int, *, expected_seq: int | None = None, by: JsonObject | None = None
    ) -> AppendedRange:
        """Makes the state what it was at `to_seq`, by one more event; nothing is rewritten. `by` is who asks, for it.

        Raises:
            NotFound: the tenant has no such session.
            RunInProgress: a run of the session is active.
            Invalid: `to_seq` is not between 0 and the head.
            SequenceConflict: the head is not `expected_seq`.
        """
        async with tenant_transaction(self._pool, self._tenant_id) as connection:
            return await roll_back_session(
                connection, self._tenant_id, session_id, to_seq, expected_seq=expected_seq, source=self._source, by=by
            )


def _check_event_data(event: AgentStateEvent) -> None:
    kind = DATA_OF_KIND.get(event.kind)
    if kind is None:
        raise Invalid(f"kind {event.kind!r}: use one of {', '.join(DATA_OF_KIND)}")
    try:
        from_builtins(event.data, kind)
    except Undecodable as problem:
        raise Invalid(f"data of a {event.kind}: {problem}") from problem
