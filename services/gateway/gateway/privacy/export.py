"""Exports of a person: all that the fleet holds on them, in one archive, readable, with the proofs of the log.

    index.json                  who, when, how many lines each file has, its SHA-256, and what could not be proven
    sessions.jsonl, runs.jsonl  and so on: rows of tables (`holdings`)
    events/SESSION.jsonl        the session's own events, decrypted: CloudEvents, one a line
    proofs/SESSION.jsonl        the same history as it was recorded, with hash chain, signed checkpoint and inclusion in
                                the log's tree: `flotilla audit verify --file` checks it

Read in short transactions while it is sent, so that no slow client holds one open; no more than a page is in memory.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flotilla.audit.export import export_session
from flotilla.contracts.errors import Conflict, Forbidden, NotFound, RetryLater, SessionArchived, no_such
from flotilla.contracts.identity import LOCAL_ISSUER, parse_identity_name
from flotilla.eventstore.log import PublishedEventLog, SessionLog
from flotilla.postgres import ITSELF, Connection, Pool, acting_as, tenant_transaction
from gateway.auth.principal import Principal
from gateway.privacy.archive import StreamedArchive
from gateway.privacy.holdings import OF_PERSON, OF_SESSIONS, OF_SUBJECT, Holding, read_page
from gateway.privacy.requests import described, get_request, record

FORMAT = "flotilla-person-export/1"
FETCHED_FOR = timedelta(days=7)
_SESSIONS_AT_ONCE = 100
_EVENTS_AT_ONCE = 100
_LINES_AT_ONCE = 100
_SELECT_SESSIONS_OF_PERSON = "SELECT session_id FROM flotilla.sessions_of_person($1, $2, $3, $4)"


async def begin_export(connection: Connection, caller: Principal, request_id: str) -> str:
    """Record that the caller fetches the export that they asked for, and return whose it is.

    Raises:
        NotFound: no such export.
        Forbidden: somebody else asked for it.
        Conflict: it is not confirmed, or was so over 7 days ago.
    """
    request = await get_request(connection, caller.tenant_id, request_id)
    if request.kind != "export" or request.person is None:
        raise no_such("export", request_id)
    if request.requested_by != caller.subject:
        raise Forbidden(f"{request.requested_by} asked for export {request_id}: nobody else fetches it")
    if request.confirmed_at is None:
        raise Conflict(f"export {request_id} waits for a further person: `flotilla privacy confirm {request_id}`")
    if request.confirmed_at < datetime.now(UTC) - FETCHED_FOR:
        raise Conflict(f"export {request_id} was confirmed over {FETCHED_FOR.days} days ago: ask for another one")
    await record(connection, caller, "privacy_exported", described(request))
    return request.person


@dataclass(slots=True)
class PersonExport:
    """One export of one person of a tenant."""

    pool: Pool
    kafka: PublishedEventLog | None
    tenant_id: str
    person: str
    issuers: frozenset[str] = frozenset({LOCAL_ISSUER})
    """Whose subjects rows name alone; those of another issuer are only found by the whole name."""
    _unproven: dict[str, str] = field(default_factory=dict)
    _archived: dict[str, str] = field(default_factory=dict)

    async def stream(self) -> AsyncIterator[bytes]:
        """The archive's bytes.

        Raises:
            RetryLater: a store does not answer; what was sent is then no whole archive.
        """
        archive = StreamedArchive()
        for holding in OF_SESSIONS:
            async for data in archive.add(f"{holding.name}.jsonl", self._of_sessions(holding)):
                yield data
        for holding, of in self._of_person():
            async for data in archive.add(f"{holding.name}.jsonl", self._pages(holding, of)):
                yield data
        async for sessions in self._sessions():
            for session_id in sessions:
                async for data in archive.add(f"events/{session_id}.jsonl", self._events(session_id)):
                    yield data
                async for data in archive.add(f"proofs/{session_id}.jsonl", self._proof(session_id)):
                    yield data
        yield archive.close(
            {
                "format": FORMAT,
                "tenant": self.tenant_id,
                "person": self.person,
                "made_at": datetime.now(UTC),
                "files": archive.files,
                "without_proof": self._unproven,
                "archived": self._archived,
            }
        )

    def _of_person(self) -> list[tuple[Holding, str]]:
        _, issuer, subject = parse_identity_name(self.person)
        named = [(holding, self.person) for holding in OF_PERSON]
        return named + ([(holding, subject) for holding in OF_SUBJECT] if issuer in self.issuers else [])

    async def _sessions(self) -> AsyncIterator[list[str]]:
        behind = ""
        while True:
            with acting_as(ITSELF):
                async with tenant_transaction(self.pool, self.tenant_id) as connection:
                    rows = await connection.fetch(
                        _SELECT_SESSIONS_OF_PERSON, self.tenant_id, self.person, behind, _SESSIONS_AT_ONCE
                    )
            if not rows:
                return
            yield [row["session_id"] for row in rows]
            behind = rows[-1]["session_id"]

    async def _of_sessions(self, holding: Holding) -> AsyncIterator[Sequence[bytes]]:
        async for sessions in self._sessions():
            async for lines in self._pages(holding, sessions):
                yield lines

    async def _pages(self, holding: Holding, of: str | Sequence[str]) -> AsyncIterator[Sequence[bytes]]:
        behind: Sequence[object] | None = ()
        while behind is not None:
            with acting_as(ITSELF):
                async with tenant_transaction(self.pool, self.tenant_id) as connection:
                    lines, behind = await read_page(connection, self.tenant_id, holding, of, behind)
            yield lines

    async def _events(self, session_id: str) -> AsyncIterator[Sequence[bytes]]:
        """Its own ones: those before a fork are the parent's."""
        log = SessionLog(self.pool, self.tenant_id, self.kafka)
        with acting_as(ITSELF):
            lineage = await log.lineage(session_id)
        seq, last = lineage[0].after_seq + 1, lineage[0].upto_seq
        while seq <= last:
            try:
                with acting_as(ITSELF):
                    page = await log.read_page(session_id, seq, min(last, seq + _EVENTS_AT_ONCE - 1))
            except SessionArchived as error:
                self._archived[session_id] = str(error)
                return
            yield [body + b"\n" for body in page.bodies]
            seq = page.next_seq

    async def _proof(self, session_id: str) -> AsyncIterator[Sequence[bytes]]:
        """What is projected now; the index names a session of which nothing is, and why."""
        lines = export_session(self.pool, self.tenant_id, session_id)
        batch: list[bytes] = []
        try:
            while True:
                with acting_as(ITSELF):
                    line = await anext(lines, None)
                if line is None:
                    break
                batch.append(line)
                if len(batch) == _LINES_AT_ONCE:
                    yield batch
                    batch = []
        except (NotFound, RetryLater, SessionArchived) as error:
            self._unproven[session_id] = str(error)
            return
        yield batch
