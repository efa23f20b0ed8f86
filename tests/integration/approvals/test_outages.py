"""The worker or Temporal killed while an action waits: the votes so far, the deadline and the wait are still there."""

import asyncio
from collections.abc import Callable

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from flotilla.approvals.policy import parse_policy
from flotilla.postgres import Pool
from flotilla_devstack import RunningStack
from tests.integration.approvals.desk import BOB, CAROL, POLICY, Desk, Refused, open_desk
from tests.support.consumers import Process, start
from tests.support.postgres import Database
from tests.support.waiting import eventually

DESK = "tests.integration.approvals.desk_process"
FEW_SECONDS = f"{POLICY}[actions.echo.medium]\ndeadline_s = 4\nreminder_s = 3\n"


async def killed(worker: Process) -> None:
    """kill -9."""
    await asyncio.to_thread(worker.kill)
    worker.output.close()


async def waits(desk: Desk, handle: object) -> None:
    await eventually(lambda: desk.in_inbox(handle), timeout_s=60)  # type: ignore[arg-type]


async def test_an_action_outlives_the_worker_that_was_killed_while_it_waited(
    database: Database, pool: Pool, unique: Callable[[str], str], temporal_client: Client, temporal_address: str
) -> None:
    queue = unique("queue")
    dsn = database.dsn("flotilla_worker")
    worker = await asyncio.to_thread(start, DESK, dsn=dsn, address=temporal_address, queue=queue)
    try:
        desk = Desk(temporal_client, pool, queue)
        handle = await desk.submit(risk="high")
        await waits(desk, handle)
        first = await desk.decide(handle, BOB)
    finally:
        await killed(worker)
    async with open_desk(temporal_client, pool, queue) as desk:
        assert await desk.decide(handle, BOB) == first
        assert [vote.subject for vote in (await desk.state(handle)).votes] == [BOB]
        await desk.decide(handle, CAROL)
        assert (await handle.result()).status == "completed"
        with pytest.raises(RPCError) as caught:
            await desk.decide(handle, "dave")
        assert caught.value.status == RPCStatusCode.NOT_FOUND
    assert (await desk.changes(handle)).count("approval_counted") == 2


async def test_a_deadline_that_passes_while_no_worker_runs_is_kept_by_the_next(
    database: Database, pool: Pool, unique: Callable[[str], str], temporal_client: Client, temporal_address: str
) -> None:
    """Also against a vote that was cast meanwhile, and waited for a worker."""
    queue = unique("queue")
    dsn = database.dsn("flotilla_worker")
    worker = await asyncio.to_thread(start, DESK, dsn=dsn, address=temporal_address, queue=queue, policy=FEW_SECONDS)
    try:
        desk = Desk(temporal_client, pool, queue)
        handle = await desk.submit()
        await waits(desk, handle)
    finally:
        await killed(worker)

    async def over() -> bool:
        rows = await desk.rows("SELECT 1 FROM flotilla.approvals WHERE deadline_at < now()")
        return bool(rows)

    await eventually(over, timeout_s=30)
    vote = asyncio.create_task(desk.decide(handle, BOB))
    async with open_desk(temporal_client, pool, queue, policy=parse_policy(FEW_SECONDS, "short")) as desk:
        assert (await handle.result()).status == "timeout"
    with pytest.raises((Refused, RPCError)):
        await vote
    assert await desk.rows("SELECT 1 FROM flotilla.action_executions") == []


async def test_an_action_that_waits_outlives_its_server(
    stack: RunningStack, pool: Pool, unique: Callable[[str], str]
) -> None:
    server = await asyncio.to_thread(stack.extra_temporal)
    async with open_desk(await Client.connect(server.address), pool, unique("queue")) as desk:
        handle = await desk.submit(risk="high")
        await waits(desk, handle)
        await desk.decide(handle, BOB)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        assert [vote.subject for vote in (await desk.state(handle)).votes] == [BOB]
        await desk.decide(handle, CAROL)
        assert (await handle.result()).status == "completed"
    await asyncio.to_thread(server.stop)
