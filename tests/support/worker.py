"""The workflow worker, composed as its process composes it, inside the test's event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.runtime import Runtime as SdkRuntime

from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.contracts.names import RAG_WORKFLOW, run_workflow_id
from flotilla.contracts.requests import RAGRequest, RAGResponse
from flotilla.encryption import open_keyring
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla.postgres.workflow_ciphers import create_workflow_ciphers
from flotilla.runtime import Runtime
from flotilla.votes.roots import read_vote_roots
from tests.support.policies import UNSIGNED
from tests.support.redis_users import url_of
from tests.support.tickets import KEY_FILE, SIGNER
from workflow_worker.actions.registry import load_action_handlers
from workflow_worker.delegates import KnownDelegates
from workflow_worker.installed_workflows import load_installed_workflows
from workflow_worker.main import WorkerDependencies, run_worker_parts
from workflow_worker.settings import Settings
from workflow_worker.temporal import TemporalConnection


@dataclass
class RunningWorker:
    """What a test needs of a running worker."""

    client: Client
    task_queue: str
    pool: Pool
    redis: Redis
    runtime: Runtime

    async def start_run(self, request: RAGRequest) -> WorkflowHandle[Any, RAGResponse]:
        """Starts a run's workflow, as the gateway does after its commit."""
        return await self.client.start_workflow(
            RAG_WORKFLOW,
            request,
            id=run_workflow_id(request.run_id),
            task_queue=self.task_queue,
            result_type=RAGResponse,
            # The worker may have found the row and started it already.
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )

    async def rows(self, tenant_id: str, query: str, *arguments: object) -> list[asyncpg.Record]:
        """What the application role sees as `tenant_id`."""
        async with tenant_transaction(self.pool, tenant_id) as connection:
            return await connection.fetch(query, *arguments)

    async def run_row(self, request: RAGRequest) -> asyncpg.Record:
        """The run's row."""
        return (await self.rows(request.tenant_id, "SELECT * FROM flotilla.runs WHERE run_id = $1", request.run_id))[0]

    async def events(self, tenant_id: str, session_id: str) -> list[AgentEvent]:
        """The session's events that are still in the outbox (no relay runs here), by seq."""
        query = "SELECT body FROM flotilla.event_outbox WHERE session_id = $1 ORDER BY seq"
        return [decode_event(row["body"]) for row in await self.rows(tenant_id, query, session_id)]


@asynccontextmanager
async def running_worker(
    *,
    dsn: str,
    pool: Pool,
    redis_url: str,
    temporal_address: str,
    task_queue: str,
    operator_tenant: str = "default",
    policy: str = UNSIGNED,
    vote_roots: Path | None = None,
    **options: Any,
) -> AsyncIterator[RunningWorker]:
    """A worker on its own task queue and as its own user of Redis, for as long as the block lasts; `options` are
    further settings."""
    own_url = await url_of(redis_url, "workflow-worker")
    settings = Settings(
        postgres_dsn=dsn,  # type: ignore[arg-type]
        redis_url=own_url,  # type: ignore[arg-type]
        temporal_address=temporal_address,
        task_queue=task_queue,
        ticket_key_file=KEY_FILE,
        approval_policy=policy,
        vote_roots=vote_roots,
        drain_s=2,
        operator_tenant=operator_tenant,
        **options,
    )
    runtime, keyring = Runtime("workflow-worker"), open_keyring(settings)
    async with (
        connect_redis(redis_url) as admin,
        connect_redis(own_url) as redis,
        open_pool(dsn, application="workflow-worker", keyring=keyring) as own_pool,
    ):
        temporal = TemporalConnection(settings, SdkRuntime.default(), create_workflow_ciphers(own_pool, keyring))
        await temporal.check_temporal_ready()
        deps = WorkerDependencies(
            own_pool,
            redis,
            temporal.client,
            ReloadingPolicyFile(settings.approval_policy),
            load_action_handlers(),
            SIGNER,
            KnownDelegates(own_pool),
            read_vote_roots(settings.vote_roots),
            load_installed_workflows(),
        )
        task = asyncio.create_task(run_worker_parts(settings, runtime, deps))
        try:
            yield RunningWorker(temporal.client, task_queue, pool, admin, runtime)
        finally:
            runtime.stop.set()
            await task
