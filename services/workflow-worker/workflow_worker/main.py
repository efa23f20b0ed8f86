"""Composition root of `workflow-worker`: opens everything, wires it, works until asked to stop, drains."""

import asyncio
from contextlib import AsyncExitStack

from temporalio.worker import Worker

from flotilla.bus import AgentEventBus, Consumer, ConsumerOptions, Redis, check_redis, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetters
from flotilla.bus.housekeeping import Housekeeping
from flotilla.bus.live import RunFeed
from flotilla.contracts.names import BRIDGE_GROUP, REPLIES_STREAM
from flotilla.postgres import Pool, check_schema, open_pool
from flotilla.runtime import Runtime, serve
from workflow_worker.activities.delegation import Delegation
from workflow_worker.activities.runs import RunRecords
from workflow_worker.bridge import Bridge
from workflow_worker.duties import kinds, known_agents, show_gauges
from workflow_worker.leader import Leader, every
from workflow_worker.reconciler import Reconciler
from workflow_worker.settings import Settings
from workflow_worker.temporal import TemporalConnection, make_worker, sdk_runtime
from workflow_worker.workflows.catalog import WORKFLOWS

SERVICE = "workflow-worker"
RECONCILE_S = 5.0
GAUGES_S = 5.0


async def run(settings: Settings, runtime: Runtime) -> None:
    """Works until `runtime.stop`, then drains."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_pool(
                settings.postgres_dsn.get_secret_value(), application=SERVICE, max_size=settings.postgres_pool_max
            )
        )
        redis = await stack.enter_async_context(
            connect_redis(settings.redis_url.get_secret_value(), name=runtime.instance)
        )
        temporal = TemporalConnection(settings, sdk_runtime(settings.metrics_host, settings.temporal_metrics_port))
        runtime.health.add_check("postgres", lambda: check_schema(pool))
        runtime.health.add_check("redis", lambda: check_redis(redis))
        runtime.health.add_check("temporal", temporal.check)
        if await runtime.until_ready():
            await work(settings, runtime, temporal, pool, redis)


async def work(settings: Settings, runtime: Runtime, temporal: TemporalConnection, pool: Pool, redis: Redis) -> None:
    bus = AgentEventBus(redis)
    runs = RunRecords(pool, RunFeed(redis))
    delegation = Delegation(pool, redis, bus)
    worker = make_worker(
        temporal.client,
        settings,
        runtime.instance,
        workflows=WORKFLOWS,
        activities=[
            delegation.delegate,
            delegation.tell_agent_cancelled,
            runs.begin_run,
            runs.save_to_database,
            runs.close_run,
        ],
    )
    reconciler = Reconciler(pool, temporal.client, settings.task_queue, kinds(runs))
    housekeeping = Housekeeping(redis, lambda: known_agents(pool), PostgresDeadLetters(pool).counts)
    leader = Leader(
        pool,
        SERVICE,
        runtime.instance,
        [housekeeping.run, every(RECONCILE_S, reconciler.run), every(GAUGES_S, lambda: show_gauges(pool))],
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(_until_stopped(worker, runtime.stop), name="temporal worker")
        group.create_task(_bridge(settings, runtime, temporal, pool, redis).run(runtime.stop), name="bridge")
        group.create_task(leader.run(runtime.stop), name="leader")


def _bridge(settings: Settings, runtime: Runtime, temporal: TemporalConnection, pool: Pool, redis: Redis) -> Consumer:
    runtime.health.expect_progress("bridge", within_s=60)
    return Consumer(
        redis,
        REPLIES_STREAM,
        BRIDGE_GROUP,
        runtime.instance,
        Bridge(temporal.client, pool, redis).handle,
        ConsumerOptions(concurrency=settings.bridge_slots, grace_s=settings.drain_s),
        PostgresDeadLetters(pool),
        on_progress=lambda: runtime.health.progress("bridge"),
    )


async def _until_stopped(worker: Worker, stop: asyncio.Event) -> None:
    async with worker:
        await stop.wait()


def main() -> int:
    """Runs the service; gives the exit code."""
    return serve(SERVICE, Settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
