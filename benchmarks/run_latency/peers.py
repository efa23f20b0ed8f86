"""The peers: a bare workflow of one or three activities, and a workflow that delegates one step to an agent."""

import asyncio
import os
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client

with workflow.unsafe.imports_passed_through():
    from flotilla.contracts.tasks import AgentTask
    from flotilla.workflows.delegation import delegate

QUEUE = "run-latency"
TENANT = "default"
_LIMIT = timedelta(seconds=60)


@activity.defn(name="bare")
async def bare(text: str) -> str:
    """An activity that does nothing."""
    return text


@workflow.defn(name="BareOne")
class BareOne:
    """One activity."""

    @workflow.run
    async def run(self, text: str) -> str:
        return await workflow.execute_activity(bare, text, start_to_close_timeout=_LIMIT)


@workflow.defn(name="BareThree")
class BareThree:
    """Three activities, one after the other."""

    @workflow.run
    async def run(self, text: str) -> str:
        for _ in range(3):
            text = await workflow.execute_activity(bare, text, start_to_close_timeout=_LIMIT)
        return text


@workflow.defn(name="DelegateOne")
class DelegateOne:
    """One step done by an agent, with its result and a session event written."""

    @workflow.run
    async def run(self, session_id: str) -> str:
        task = AgentTask(
            task_id=workflow.info().workflow_id,
            agent="echo",
            tenant_id=TENANT,
            session_id=session_id,
            input={"text": session_id},
        )
        return (await delegate(task)).task_id


@workflow.defn(name="DelegateTwo")
class DelegateTwo:
    """A routing slip through two agents, as one step."""

    @workflow.run
    async def run(self, session_id: str) -> str:
        task = AgentTask(
            task_id=workflow.info().workflow_id,
            agent="echo",
            slip=["echo"],
            tenant_id=TENANT,
            session_id=session_id,
            input={"text": session_id},
        )
        return (await delegate(task)).task_id


async def main() -> None:
    """Works on the peers' queue until killed. The bridge runs in the workflow worker beside it."""
    from flotilla.bus import connect_redis
    from flotilla.bus.known_agents import KnownAgents
    from flotilla.config import load_settings
    from flotilla.config.signing import load_signer
    from flotilla.postgres import open_pool
    from workflow_worker.activities.delegation import DelegationActivities
    from workflow_worker.delegates import KnownDelegates
    from workflow_worker.delegations import HopPublisher
    from workflow_worker.recent_hops import RecentHopCache
    from workflow_worker.settings import Settings
    from workflow_worker.temporal import make_worker

    settings = load_settings(Settings).model_copy(update={"task_queue": QUEUE})
    client = await Client.connect(settings.temporal_address)
    async with (
        open_pool(settings.postgres_dsn.get_secret_value(), application="bench", max_size=20) as pool,
        connect_redis(settings.redis_url.get_secret_value()) as redis,
    ):
        publisher = HopPublisher(pool, redis, KnownDelegates(pool), RecentHopCache())
        known = KnownAgents(pool, redis, settings.agents)
        delegation = DelegationActivities(pool, redis, publisher, load_signer(settings.ticket_key_file), known)
        worker = make_worker(
            client,
            settings,
            f"peers-{os.getpid()}",
            workflows=[BareOne, BareThree, DelegateOne, DelegateTwo],
            activities=[bare, delegation.delegate, delegation.tell_agent_cancelled],
        )
        await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
