"""One look at the database for all runs that somebody follows here: is there more in the log, has the run ended, may
somebody else read it now?

The live stream tells sooner; this is what holds when Redis is unavailable, was flushed, or never heard of the run.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from flotilla.contracts.requests import OPEN_RUN_STATUSES
from flotilla.postgres import AWAY, Pool, tenant_transaction
from flotilla.runtime.stopping import sleep_or_stop
from gateway.live.wakeup import FollowerWakeup

EVERY_S = 0.5
log = structlog.get_logger(__name__)
_SELECT_RUNS = """
SELECT r.run_id, r.status, s.head_seq, concat_ws('|', s.owner, s.visibility, s.readers, s.writers) AS access
FROM flotilla.runs AS r
JOIN flotilla.sessions AS s ON s.tenant_id = r.tenant_id AND s.session_id = r.session_id
WHERE r.tenant_id = $1 AND r.run_id = ANY($2)
"""


class RunWatch:
    """Rings the followers of a run when its status, its session's head or who may read it changes."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._wakeups: defaultdict[str, defaultdict[str, set[FollowerWakeup]]] = defaultdict(lambda: defaultdict(set))
        self._seen: dict[str, tuple[str, int, str]] = {}

    @contextmanager
    def notify_of_changes(self, tenant_id: str, run_id: str, wakeup: FollowerWakeup) -> Iterator[None]:
        """Notify `wakeup` of changes of the run as long as the block runs."""
        self._wakeups[tenant_id][run_id].add(wakeup)
        try:
            yield
        finally:
            self._forget(tenant_id, run_id, wakeup)

    def wake_followers(self, run_id: str) -> None:
        """Somebody says that the run moved on."""
        for runs in self._wakeups.values():
            for wakeup in runs.get(run_id, ()):
                wakeup.notify(log=True)

    def wake_all_followers(self) -> None:
        """Make every follower look up: the process is about to stop."""
        for runs in self._wakeups.values():
            for wakeups in runs.values():
                for wakeup in wakeups:
                    wakeup.notify()

    async def run(self, stop: asyncio.Event) -> None:
        """Look twice a second until `stop`, while anybody follows."""
        while not stop.is_set():
            for tenant_id, run_ids in [(tenant, list(runs)) for tenant, runs in self._wakeups.items()]:
                await self._look(tenant_id, run_ids)
            await sleep_or_stop(stop, EVERY_S)
        self.wake_all_followers()

    async def _look(self, tenant_id: str, run_ids: list[str]) -> None:
        try:
            async with tenant_transaction(self._pool, tenant_id) as connection:
                rows = await connection.fetch(_SELECT_RUNS, tenant_id, run_ids)
        except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
            log.warning("run_watch_away", error=str(error) or type(error).__name__)
            return
        for row in rows:
            seen = (row["status"], row["head_seq"], row["access"])
            before = self._seen.get(row["run_id"])
            if before != seen and row["run_id"] in self._wakeups.get(tenant_id, {}):
                self._seen[row["run_id"]] = seen
                over, access = row["status"] not in OPEN_RUN_STATUSES, before is None or before[2] != row["access"]
                for wakeup in self._wakeups[tenant_id][row["run_id"]]:
                    wakeup.notify(log=True, end=over, access=access)

    def _forget(self, tenant_id: str, run_id: str, wakeup: FollowerWakeup) -> None:
        runs = self._wakeups[tenant_id]
        runs[run_id].discard(wakeup)
        if not runs[run_id]:
            del runs[run_id]
            self._seen.pop(run_id, None)
        if not runs:
            del self._wakeups[tenant_id]
