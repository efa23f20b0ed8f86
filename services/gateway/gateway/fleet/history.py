"""The last hour in small steps: what is sampled here, and what the tenant's own rows tell.

Each replica samples for itself and keeps it in memory: it is for a glance at the console. Prometheus keeps the truth.
"""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import structlog
from redis.exceptions import RedisError

from flotilla.bus import Redis
from flotilla.contracts.errors import FlotillaError
from flotilla.kafka.session_log import KafkaEventLog
from flotilla.outbox import parked
from flotilla.postgres import AWAY, ITSELF, Pool, acting_as, tenant_transaction
from flotilla.runtime.stopping import sleep_or_stop
from gateway.fleet.overview import load_agent_names, measure_audit_lag
from gateway.fleet.samples import STEP_S, FleetSample, Samples, samples_of_last_hour
from gateway.fleet.streams import load_stream_loads
from gateway.schemas.overview import FleetHistory, FleetSeries

_MAX_ROWS = 10_001
_SELECT_FINISHED_RUNS = """
SELECT finished_at FROM flotilla.runs
WHERE tenant_id = $1 AND created_at > $2::timestamptz - interval '1 day' AND finished_at > $2
ORDER BY finished_at LIMIT $3
"""
# Those that waited at some moment since $2.
_SELECT_WAITED_APPROVALS = """
SELECT created_at, decided_at FROM flotilla.approvals
WHERE tenant_id = $1 AND (status = 'pending' OR decided_at > $2) LIMIT $3
"""
log = structlog.get_logger(__name__)


class FleetSampler:
    """Looks at the fleet every 15 s, and remembers it in `samples`."""

    def __init__(self, pool: Pool, redis: Redis, kafka_log: KafkaEventLog, samples: Samples) -> None:
        self._pool = pool
        self._redis = redis
        self._kafka_log = kafka_log
        self._samples = samples

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            self._samples.append(await self._sample())
            await sleep_or_stop(stop, STEP_S)

    async def _sample(self) -> FleetSample:
        at = time.time()
        lag, pending = await self._streams()
        return FleetSample(at, lag, pending, await self._backlog(), await self._audit())

    async def _streams(self) -> tuple[int | None, int | None]:
        try:
            loads = await load_stream_loads(self._redis, await load_agent_names(self._pool))
        except (*AWAY, asyncpg.PostgresError, RedisError) as error:
            log.debug("streams_not_sampled", error=str(error))
            return None, None
        return sum(load.lag or 0 for load in loads), sum(load.pending for load in loads)

    async def _backlog(self) -> int | None:
        try:
            rows, _ = await parked.count_outbox_backlog(self._pool)
        except (*AWAY, asyncpg.PostgresError) as error:
            log.debug("outbox_not_sampled", error=str(error))
            return None
        return rows

    async def _audit(self) -> int | None:
        try:
            return await measure_audit_lag(self._pool, self._kafka_log)
        except (*AWAY, asyncpg.PostgresError, FlotillaError) as error:
            log.debug("audit_not_sampled", error=str(error))
            return None


async def load_fleet_history(pool: Pool, samples: Sequence[FleetSample], tenant_id: str) -> FleetHistory:
    """The samples, with the tenant's own runs and approvals at the same moments."""
    samples = samples_of_last_hour(samples, time.time())
    times = [sample.at for sample in samples]
    since = datetime.fromtimestamp(times[0] - STEP_S, UTC)
    with acting_as(ITSELF):  # moments, of every session
        async with tenant_transaction(pool, tenant_id) as connection:
            finished = await connection.fetch(_SELECT_FINISHED_RUNS, tenant_id, since, _MAX_ROWS)
            waited = await connection.fetch(_SELECT_WAITED_APPROVALS, tenant_id, since, _MAX_ROWS)
    return FleetHistory(
        step_s=STEP_S,
        times=times,
        series=FleetSeries(
            stream_lag=[sample.stream_lag for sample in samples],
            stream_pending=[sample.stream_pending for sample in samples],
            outbox_backlog=[sample.outbox_backlog for sample in samples],
            audit_lag=[sample.audit_lag for sample in samples],
            runs_finished=_in_each_step(times, [row["finished_at"].timestamp() for row in finished]),
            approvals_pending=_waiting_at(times, waited),
        ),
    )


def _in_each_step(times: Sequence[float], moments: Sequence[float]) -> list[int]:
    """How many of the sorted `moments` fall between each time and the one before."""
    begins = [time_ - STEP_S for time_ in times[:1]] + list(times[:-1])
    return [bisect_right(moments, end) - bisect_right(moments, begin) for begin, end in zip(begins, times, strict=True)]


def _waiting_at(times: Sequence[float], rows: Sequence[asyncpg.Record]) -> list[int]:
    opened = sorted(row["created_at"].timestamp() for row in rows)
    closed = sorted(row["decided_at"].timestamp() for row in rows if row["decided_at"] is not None)
    return [bisect_right(opened, at) - bisect_right(closed, at) for at in times]
