"""A workflow whose tasks fail just now takes no update: its caller is asked to repeat, not told that it is wrong."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from flotilla.contracts.errors import RetryLater
from gateway.temporal import error_from_temporal
from tests.support.waiting import eventually

REFUSED_FROM = 3
"""The attempt of a task from which Temporal refuses updates."""


@workflow.defn
class Failing:
    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("this fails the task, not the workflow")

    @workflow.update
    async def decide(self) -> None:
        """Never reached."""


async def test_an_update_is_to_be_repeated_while_the_workflows_tasks_fail(
    temporal_address: str, unique: Callable[[str], str]
) -> None:
    client, name = await Client.connect(temporal_address), unique("failing")
    async with Worker(client, task_queue=name, workflows=[Failing], workflow_runner=UnsandboxedWorkflowRunner()):
        handle = await client.start_workflow(Failing.run, id=name, task_queue=name, task_timeout=timedelta(seconds=1))

        async def failed_often() -> bool:
            described = await handle.describe()
            return described.raw_description.pending_workflow_task.attempt >= REFUSED_FROM

        await eventually(failed_often, timeout_s=60)
        with pytest.raises(RPCError) as refused:
            await handle.execute_update(Failing.decide)
        answer = error_from_temporal(refused.value, name)
        assert isinstance(answer, RetryLater), answer
        await handle.terminate()
