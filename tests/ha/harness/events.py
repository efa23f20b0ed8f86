"""Writers of session events, one session for each lane, and a reader that sees when they are projected."""

import asyncio
import uuid
from collections.abc import Iterator

import asyncpg

from flotilla.contracts.errors import SequenceConflict
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox import append
from flotilla.postgres import AWAY, Pool, open_pool, tenant_transaction
from tests.ha.harness.items import Item, Note, wait_for
from tests.ha.harness.servers import DATABASE, Servers
from tests.support.session_events import TENANT, create_session, message

_TROUBLE = (*AWAY, asyncpg.PostgresError, TimeoutError)
_AGAIN_S = 0.3
_LOOK_S = 0.25
_PROJECTED = """
SELECT event_id FROM audit.session_events
WHERE tenant_id = $1 AND session_id = ANY($2) AND event_id = ANY($3::uuid[])
"""
_HEAD = "SELECT head_seq FROM flotilla.sessions WHERE session_id = $1"


class EventWriters:
    """A writer has one event under way at a time: after an error it looks whether that was committed."""

    def __init__(self, servers: Servers, batch: str, note: Note) -> None:
        self._servers = servers
        self._note = note
        self._sessions = dict(_one_for_each_lane(batch))
        self._open: dict[str, Item] = {}
        """Events that were committed, until they are projected."""

    async def write(self, stop: asyncio.Event, pause_s: float) -> None:
        """Write until `stop`; return when all that was committed is projected."""
        written = asyncio.Event()
        pool_for_all = open_pool(self._servers.dsn("flotilla_app"), application="load", max_size=len(self._sessions))
        async with pool_for_all as pool, asyncio.TaskGroup() as group:
            group.create_task(self._look(written))
            async with asyncio.TaskGroup() as writers:
                for lane, session in self._sessions.items():
                    writers.create_task(self._session(pool, lane, session, stop, pause_s))
            written.set()

    async def _session(self, pool: Pool, lane: int, session: str, stop: asyncio.Event, pause_s: float) -> None:
        head = 0
        while not stop.is_set():
            event_id = str(uuid.uuid4())
            item = self._note("event", str(lane), event_id)
            head = await self._committed(pool, session, head, event_id)
            self._open[event_id] = item
            await wait_for(stop, pause_s)

    async def _committed(self, pool: Pool, session: str, head: int, event_id: str) -> int:
        """Append one event, however often it takes, and return the session's head after it."""
        while True:
            try:
                async with tenant_transaction(pool, TENANT) as connection:
                    if head == 0 and await connection.fetchval(_HEAD, session) is None:
                        await create_session(connection, session)
                    event = message(f"event {head + 1}", event_id)
                    return (await append(connection, TENANT, session, [event], expected_seq=head)).last_seq
            except SequenceConflict as conflict:
                return await self._after_conflict(pool, session, head, conflict)
            except _TROUBLE:
                await asyncio.sleep(_AGAIN_S)

    async def _after_conflict(self, pool: Pool, session: str, head: int, conflict: SequenceConflict) -> int:
        """An earlier try was committed, though its answer was lost; nobody else writes here."""
        while True:
            try:
                async with tenant_transaction(pool, TENANT) as connection:
                    found = int(await connection.fetchval(_HEAD, session))
            except _TROUBLE:
                await asyncio.sleep(_AGAIN_S)
                continue
            if found < head:
                raise AssertionError(f"{session}: committed events are gone, its head went from {head} to {found}")
            if found != head + 1:
                raise conflict
            return found

    async def _look(self, written: asyncio.Event) -> None:
        while not written.is_set() or self._open:
            for event_id in await self._projected(list(self._open)):
                self._open.pop(event_id).end("projected")
            await asyncio.sleep(_LOOK_S)

    async def _projected(self, event_ids: list[str]) -> list[str]:
        """Those that the primary's projection has, asked directly."""
        try:
            connection = await asyncpg.connect(self._servers.postgres.primary.dsn(DATABASE), timeout=2)
        except _TROUBLE:
            return []
        try:
            rows = await connection.fetch(_PROJECTED, TENANT, list(self._sessions.values()), event_ids, timeout=2)
            return [str(row["event_id"]) for row in rows]
        except _TROUBLE:
            return []
        finally:
            connection.terminate()


def _one_for_each_lane(batch: str) -> Iterator[tuple[int, str]]:
    """A session's name for each lane, the lane first."""
    wanted = set(range(SESSION_EVENTS_PARTITIONS))
    number = 0
    while wanted:
        number += 1
        session = f"{batch}-event-{number}"
        if (lane := lane_of_session(TENANT, session)) in wanted:
            wanted.remove(lane)
            yield lane, session
