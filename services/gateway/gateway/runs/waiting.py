"""Waits for the end of a run or task: a run's live stream announces its end, else the database does."""

import asyncio
from contextlib import ExitStack

from flotilla.contracts.requests import OPEN_RUN_STATUSES
from gateway.live.admission import CHECK_EVERY_S, StreamAccessCheck
from gateway.live.wakeup import FollowerWakeup
from gateway.pipelines.ending import with_current_status
from gateway.pipelines.records import get_task
from gateway.runs.cited import EndNote, get_readable_run
from gateway.runs.records import load_followed_run
from gateway.schemas.pipelines import Task
from gateway.schemas.runs import Run
from gateway.services import PAUSE_S, GatewayServices

FIRST_PAUSE_S = 0.01
"""Before a task is looked at again: quick calls of tools take milliseconds. Later ones grow up to `PAUSE_S`."""


async def wait_for_finished_run(
    services: GatewayServices,
    tenant_id: str,
    run_id: str,
    timeout_s: float,
    admission: StreamAccessCheck | None = None,
    *,
    note: EndNote | None = None,
) -> Run | None:
    """The run as the caller may see it, once it is over and `note` was called; None when that takes longer than
    `timeout_s`. Takes the place of an open stream.

    Raises:
        Forbidden: `admission` says that who waits may not read it any more.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    wakeup = FollowerWakeup()
    followed = await load_followed_run(services.pool, tenant_id, run_id)
    with ExitStack() as stack:
        stack.enter_context(services.streams.hold(tenant_id))
        stack.enter_context(services.feed.notify_of_entries(followed.live, wakeup))
        stack.enter_context(services.watch.notify_of_changes(tenant_id, run_id, wakeup))
        while not services.stopping.is_set():
            pending = await wakeup.wait(min(CHECK_EVERY_S, max(0.0, deadline - loop.time())))
            if admission is not None:
                await admission.check_may_read(f"run {run_id}")
            run = await get_readable_run(services.pool, tenant_id, run_id, note) if pending.end else None
            if run is not None and run.status not in OPEN_RUN_STATUSES:
                return run
            if loop.time() >= deadline:
                return None
    return None


async def wait_for_finished_task(
    services: GatewayServices,
    tenant_id: str,
    task_id: str,
    timeout_s: float,
    admission: StreamAccessCheck | None = None,
) -> Task:
    """Return the task once it is over, at the latest after `timeout_s`. Takes the place of an open stream.

    Raises:
        NotFound: the tenant has no such task.
        Forbidden: `admission` says that who waits may not read it any more.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    with services.streams.hold(tenant_id):
        pause_s = FIRST_PAUSE_S
        while True:
            if admission is not None:
                await admission.check_may_read(f"task {task_id}")
            task = await get_task(services.pool, tenant_id, task_id)
            left_s = deadline - loop.time()
            if pause_s >= PAUSE_S or left_s <= 0:  # until then its row is the first to know
                task = await with_current_status(services.temporal, task)
            if task.finished_at is not None or left_s <= 0 or services.stopping.is_set():
                return task
            await services.sleep_or_stop(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, PAUSE_S)
