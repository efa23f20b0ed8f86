"""What must hold once everything runs again: nothing lost, nothing doubled, all in order, the chain verified."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from subprocess import CompletedProcess

import asyncpg

from tests.ha.harness.fleet import Fleet
from tests.ha.harness.items import Item
from tests.ha.harness.servers import DATABASE
from tests.support.waiting import eventually

_WELL = {"run": "success", "approval": "completed", "event": "projected"}
_SETTLE_S = 120.0
_IN = "SELECT count(*) FROM audit.session_events WHERE session_id LIKE $1 || '-%'"
# Sessions whose projection is not what the services committed.
_NOT_WHOLE = """
SELECT s.session_id, s.head_seq, count(e.seq) AS events
FROM flotilla.sessions AS s LEFT JOIN audit.session_events AS e USING (tenant_id, session_id)
WHERE s.session_id LIKE $1 || '-%' GROUP BY s.session_id, s.head_seq
HAVING count(e.seq) <> s.head_seq OR coalesce(max(e.seq), 0) <> s.head_seq
"""
_DOUBLED = """
SELECT 'event ' || event_id::text AS what FROM audit.session_events
WHERE session_id LIKE $1 || '-%' GROUP BY event_id HAVING count(*) > 1
UNION ALL SELECT 'answer of run ' || run_id FROM flotilla.interactions
WHERE session_id LIKE $1 || '-%' GROUP BY run_id HAVING count(*) > 1
UNION ALL SELECT 'model call of task ' || task_id FROM flotilla.llm_calls
WHERE session_id LIKE $1 || '-%' GROUP BY task_id, request_hash HAVING count(*) > 1
UNION ALL SELECT 'approval of ' || session_id FROM audit.session_events
WHERE session_id LIKE $1 || '-%' AND event #>> '{data,change}' = 'action_approved'
GROUP BY session_id HAVING count(*) > 1
"""
# In a partition, an event with a higher number has a higher offset.
_OUT_OF_ORDER = """
SELECT session_id, seq FROM (
    SELECT session_id, seq, kafka_offset, lag(kafka_offset) OVER (PARTITION BY session_id ORDER BY seq) AS before
    FROM audit.session_events WHERE session_id LIKE $1 || '-%'
) AS ordered WHERE kafka_offset <= before
"""
_PARKED = "SELECT session_id, reason FROM audit.parked_events WHERE session_id LIKE $1 || '-%'"


@dataclass(frozen=True)
class Verdict:
    """Of one scenario. Lists hold what is wrong, for people."""

    name: str
    counts: dict[str, int]
    lost: Sequence[str]
    doubled: Sequence[str]
    out_of_order: Sequence[str]
    chain: str
    """Empty, or what `flotilla audit verify` printed."""
    slowest_run_s: float
    seen: dict[str, int]
    slowest_request_s: float
    calm_s: float = 0
    """The longest that a piece of work took before the fault."""
    recovery_s: float = 0
    restarts: int = 0
    """Of services, by themselves or because the scenario killed them."""

    def line(self) -> str:
        """One line of the table."""
        work = ", ".join(f"{count} {kind}s" for kind, count in self.counts.items())
        seen = ", ".join(f"{count} x {what}" for what, count in sorted(self.seen.items())) or "no error"
        chain = "verified" if not self.chain else "BROKEN"
        return (
            f"| {self.name} | {work} | {len(self.lost)} / {len(self.doubled)} / {len(self.out_of_order)} | {chain} | "
            f"{self.recovery_s:.1f} s | {self.slowest_run_s:.1f} s | {seen}; slowest {self.slowest_request_s:.1f} s | "
            f"{self.restarts} |"
        )

    def problems(self) -> list[str]:
        """Everything that must not be."""
        unfit = [f"callers saw {what} {count} times" for what, count in self.seen.items() if not _acceptable(what)]
        lost = [f"lost: {what}" for what in self.lost]
        doubled = [f"doubled: {what}" for what in self.doubled]
        disordered = [f"out of order: {what}" for what in self.out_of_order]
        return [*lost, *doubled, *disordered, *([self.chain] if self.chain else []), *unfit]


HEADER = (
    "| fault | in | lost / doubled / out of order | chain | recovery | slowest run | callers saw | restarts |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _acceptable(seen: str) -> bool:
    """What a client that repeats is meant to see: 503 with Retry-After. No answer only where the gateway was killed."""
    return seen == "503" or seen.startswith("no answer")


class Judge:
    """Looks at the databases of a fleet directly."""

    def __init__(self, dsn: Callable[[], str], verify: Callable[[], "CompletedProcess[str]"], batch: str) -> None:
        """`dsn` leads to the present primary, as superuser; `verify` runs `flotilla audit verify`."""
        self._dsn = dsn
        self._verify = verify
        self._batch = batch

    @classmethod
    def of(cls, fleet: Fleet, batch: str) -> "Judge":
        """The judge of a fleet."""
        return cls(lambda: fleet.servers.postgres.primary.dsn(DATABASE), lambda: fleet.cli("audit", "verify"), batch)

    async def settled(self, within_s: float = _SETTLE_S) -> list[str]:
        """Wait until the projection has everything; return what it lacks at the end."""
        deadline = time.monotonic() + within_s
        while missing := await self._query(_NOT_WHOLE):
            if time.monotonic() > deadline:
                return [f"{row['session_id']}: {row['events']} of {row['head_seq']} events" for row in missing]
            await asyncio.sleep(0.5)
        return []

    async def lost(self, items: Sequence[Item], within_s: float = _SETTLE_S) -> list[str]:
        """Work that did not end well, and events that are not projected."""
        ill = [f"{item.kind} {item.name}: {item.outcome or 'never over'}" for item in items if _ill(item)]
        parked = [f"{row['session_id']} is parked: {row['reason']}" for row in await self._query(_PARKED)]
        return [*ill, *await self.settled(within_s), *parked]

    async def doubled(self) -> list[str]:
        """Effects that came twice."""
        return [str(row["what"]) for row in await self._query(_DOUBLED)]

    async def out_of_order(self) -> list[str]:
        """Events that Kafka has in another order than the session."""
        return [f"{row['session_id']} at {row['seq']}" for row in await self._query(_OUT_OF_ORDER)]

    async def events(self) -> int:
        """How many events of this batch are projected."""
        return int((await self._query(_IN))[0][0])

    async def chain(self) -> str:
        """Empty once `flotilla audit verify` finds everything in order; else what it printed last."""
        printed = ""

        async def verified() -> bool:
            nonlocal printed
            done = await asyncio.to_thread(self._verify)
            printed = done.stdout + done.stderr
            return done.returncode == 0

        try:
            await eventually(verified, timeout_s=60, every_s=2)
        except AssertionError:
            return f"flotilla audit verify: {printed[-2000:]}"
        return ""

    async def _query(self, statement: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._dsn())
        try:
            return await connection.fetch(statement, self._batch)
        finally:
            await connection.close()


def _ill(item: Item) -> bool:
    return item.over is None or item.outcome != _WELL[item.kind]
