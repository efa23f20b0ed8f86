"""A worker without workflows of others: its job does nothing, and goes on."""

import asyncio
from typing import Any

from workflow_worker.installed_workflows import InstalledWorkflowPublisher


async def test_a_worker_without_installed_workflows_waits_for_its_stop() -> None:
    nothing: Any = None
    stop = asyncio.Event()
    work = asyncio.create_task(InstalledWorkflowPublisher(nothing, [], "queue", "w1").publish_until(stop))
    done, _ = await asyncio.wait([work], timeout=0.05)
    assert not done, "the supervisor would end the worker"
    stop.set()
    await asyncio.wait_for(work, 5)
