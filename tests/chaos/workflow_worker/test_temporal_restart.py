"""Temporal killed and started again while an action waits: the votes so far and the wait are still there."""

import asyncio
from collections.abc import Callable

from temporalio.client import Client

from flotilla.postgres import Pool
from flotilla_devstack import RunningStack
from tests.integration.approvals.desk import BOB, open_desk
from tests.support.waiting import eventually


async def test_an_action_that_waits_outlives_its_server(
    stack: RunningStack, pool: Pool, unique: Callable[[str], str]
) -> None:
    server = await asyncio.to_thread(stack.extra_temporal)
    async with open_desk(await Client.connect(server.address), pool, unique("queue")) as desk:
        handle = await desk.submit(risk="high")
        await eventually(lambda: desk.in_inbox(handle), timeout_s=30)
        await desk.decide(handle, BOB)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        assert [vote.subject for vote in (await desk.state(handle)).votes] == [BOB]
        await desk.decide(handle, "carol")
        assert (await handle.result()).status == "completed"
    await asyncio.to_thread(server.stop)
