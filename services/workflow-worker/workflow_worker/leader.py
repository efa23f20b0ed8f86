"""One leader among the workers, by a lease row on the database's clock."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import structlog

from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.runtime.supervision import Job, JobSupervisor

LEADER_LEASE_S = 5.0
LEASE_RENEWAL_INTERVAL_S = 1.5

# Takes the lease when it is free, over or ours; a new owner gets a new epoch.
_TAKE_LEASE = """
INSERT INTO flotilla_ops.leases AS l (name, owner, expires_at)
VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE
    SET owner = EXCLUDED.owner, expires_at = EXCLUDED.expires_at,
        epoch = CASE WHEN l.owner = EXCLUDED.owner THEN l.epoch ELSE l.epoch + 1 END
    WHERE l.owner = EXCLUDED.owner OR l.expires_at < now()
RETURNING epoch
"""
_DELETE_LEASE = "DELETE FROM flotilla_ops.leases WHERE name = $1 AND owner = $2"

log = structlog.get_logger(__name__)


LeaderDuty: TypeAlias = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""What the leader does until the event is set. Another leader may do it at the same moment: it must bear that."""


class LeaderElection:
    """Campaigns for the lease and runs the duties while it holds it."""

    def __init__(
        self, pool: Pool, name: str, owner: str, duties: Sequence[LeaderDuty], supervisor: JobSupervisor
    ) -> None:
        self._supervisor = supervisor
        self._pool = pool
        self._name = name
        self._owner = owner
        self._duties = duties
        self._term: _LeaderTerm | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this process holds the lease, as far as it knows."""
        return self._term is not None

    async def campaign_until(self, stop: asyncio.Event) -> None:
        """Campaigns until `stop`, then gives the lease up, so that the next leader need not wait for its end."""
        try:
            while not stop.is_set():
                await self._take_lease_and_start_or_stop_duties()
                await sleep_or_stop(stop, LEASE_RENEWAL_INTERVAL_S)
        finally:
            await self._stop_duties()
            await self._release_lease()

    async def _take_lease_and_start_or_stop_duties(self) -> None:
        held = await self._try_to_take_lease()
        if held and self._term is None:
            log.info("leading", lease=self._name)
            self._term = _LeaderTerm(self._duties, self._supervisor)
        elif not held:
            await self._stop_duties()

    async def _try_to_take_lease(self) -> bool:
        try:
            async with asyncio.timeout(LEADER_LEASE_S - LEASE_RENEWAL_INTERVAL_S):
                return await self._pool.fetchval(_TAKE_LEASE, self._name, self._owner, LEADER_LEASE_S) is not None
        except (*AWAY, TimeoutError) as error:
            log.warning("lease_not_renewed", lease=self._name, error=str(error))
            return False

    async def _stop_duties(self) -> None:
        if self._term is not None:
            log.info("no_longer_leading", lease=self._name)
            await self._term.end_term()
            self._term = None

    async def _release_lease(self) -> None:
        try:
            async with asyncio.timeout(LEADER_LEASE_S):
                await self._pool.execute(_DELETE_LEASE, self._name, self._owner)
        except (*AWAY, TimeoutError) as error:
            log.info("lease_left_to_expire", lease=self._name, error=str(error))


class _LeaderTerm:
    """One time of leading: its duties, as supervised tasks."""

    def __init__(self, duties: Sequence[LeaderDuty], supervisor: JobSupervisor) -> None:
        self._over = asyncio.Event()
        self._supervisor = supervisor
        self._names = [f"leader duty {number}" for number in range(1, len(duties) + 1)]
        for name, duty in zip(self._names, duties, strict=True):
            supervisor.start_job(Job(name=name, work=duty), self._over)

    async def end_term(self) -> None:
        """Ask the duties to end, and cancel those that do not within a second."""
        self._over.set()
        await self._supervisor.end(self._names, within_s=1.0)


def make_repeating_duty(seconds: float, work: Callable[[], Awaitable[object]]) -> LeaderDuty:
    """A duty that does `work` again and again."""

    async def repeat(over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                await work()
            except Exception:
                log.exception("duty_failed", duty=getattr(work, "__qualname__", repr(work)))
            await sleep_or_stop(over, seconds)

    return repeat
