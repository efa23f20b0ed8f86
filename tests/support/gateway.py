"""The gateway, composed as its process composes it, on a free port inside the test's event loop."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from pydantic import SecretStr

from flotilla.bus.live import LiveRunWriter
from flotilla.config import KafkaSettings
from flotilla.contracts.api_keys import api_key_hash, new_api_key
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import run_stream
from flotilla.contracts.session_events import AgentStateEvent, Message, StateChange
from flotilla.kafka.topics import ensure_topics
from flotilla.outbox import append
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla.runtime import Runtime
from gateway.main import serve_before_ready
from gateway.settings import Settings
from tests.support.policies import UNSIGNED
from tests.support.postgres import Database
from tests.support.redis_users import url_of

ANSWER = {
    "answer": "The harbour master [1].",
    "sources": [],
    "confidence": 0.5,
    "confidence_basis": "retrieval_scores",
    "model": "test",
    "usage": {"input_tokens": 1, "output_tokens": 2},
}
_FINISH = (
    "UPDATE flotilla.runs SET status = $2, result = $3, finished_at = now() WHERE run_id = $1 RETURNING session_id"
)


@dataclass
class RunningGateway:
    """One replica and its database."""

    url: str
    database: Database
    pool: Pool
    settings: Settings
    runtime: Runtime
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """An API client; without a key an anonymous one."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)
        self.clients.append(client)
        return client

    async def client_of(
        self, subject: str, *roles: str, tenant: str = "acme", person: bool = False
    ) -> httpx.AsyncClient:
        """A client with a key of its own."""
        return self.client(await self.key(subject, roles, tenant=tenant, person=person))

    async def key(self, subject: str, roles: Sequence[str], *, tenant: str = "acme", person: bool = False) -> str:
        """Stores a new key."""
        key = new_api_key()
        async with tenant_transaction(self.pool, tenant) as connection:
            if person:
                await connection.execute(
                    "INSERT INTO flotilla.people VALUES ($1, $2, $2, $3) ON CONFLICT DO NOTHING",
                    tenant,
                    subject,
                    list(roles),
                )
            await connection.execute(
                "INSERT INTO flotilla.api_keys (tenant_id, key_id, name, key_hash, subject, roles, created_by) "
                "VALUES ($1, $2, $3, $4, $3, $5, 'test')",
                tenant,
                f"k-{secrets.token_hex(4)}",
                subject,
                api_key_hash(key),
                list(roles),
            )
        return key

    async def rows(self, query: str, *arguments: object, tenant: str = "acme") -> list[asyncpg.Record]:
        """What the application role sees as `tenant`."""
        async with tenant_transaction(self.pool, tenant) as connection:
            return await connection.fetch(query, *arguments)

    async def as_superuser(self, *statements: str) -> None:
        """Executes statements that no role of the fleet may."""
        connection = await asyncpg.connect(self.database.superuser_dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def live(self, run_id: str, *, tenant: str = "acme") -> str:
        """The run's live stream."""
        [row] = await self.rows("SELECT live_key FROM flotilla.runs WHERE run_id = $1", run_id, tenant=tenant)
        return run_stream(run_id, row["live_key"])

    async def work(self, run_id: str, *texts: str, tenant: str = "acme") -> None:
        """Appends messages of a run to its session, as an agent does."""
        async with tenant_transaction(self.pool, tenant) as connection:
            session_id = await connection.fetchval("SELECT session_id FROM flotilla.runs WHERE run_id = $1", run_id)
            events = [_event("message", Message(role="assistant", content=text), run_id) for text in texts]
            await append(connection, tenant, session_id, events)

    async def finish(
        self, run_id: str, feed: LiveRunWriter | None = None, *, status: str = "success", tenant: str = "acme"
    ) -> None:
        """Ends a run as the workflow worker does."""
        change = StateChange(change="run_finished", status="idle", details={"run_id": run_id, "status": status})
        async with tenant_transaction(self.pool, tenant) as connection:
            session_id = await connection.fetchval(_FINISH, run_id, status, json.dumps(ANSWER))
            await append(connection, tenant, session_id, [_event("state_change", change, run_id)])
        if feed is not None:
            await feed.write_run_ended(await self.live(run_id, tenant=tenant), status)


def _event(kind: Any, data: object, run_id: str) -> AgentStateEvent:
    return AgentStateEvent(kind=kind, data=to_builtins(data), source="/test", run_id=run_id)


async def make_topics(kafka_bootstrap: str) -> dict[str, str]:
    """Topics of a test run's own, as settings."""
    name = secrets.token_hex(4)
    events, checkpoints = f"events-{name}", f"checkpoints-{name}"
    settings = KafkaSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        kafka_session_events_topic=events,
        kafka_checkpoints_topic=checkpoints,
    )
    await ensure_topics(settings)
    return {"kafka_session_events_topic": events, "kafka_checkpoints_topic": checkpoints}


@asynccontextmanager
async def running_gateway(
    *, database: Database, redis_url: str, kafka_bootstrap: str, temporal_address: str, task_queue: str, **options: Any
) -> AsyncIterator[RunningGateway]:
    """A replica for as long as the block runs; `options` are settings."""
    settings = Settings(
        postgres_dsn=SecretStr(database.dsn("flotilla_gateway")),
        redis_url=SecretStr(await url_of(redis_url, "gateway")),
        kafka_bootstrap_servers=kafka_bootstrap,
        temporal_address=temporal_address,
        task_queue=task_queue,
        http_host="127.0.0.1",
        drain_s=4,
        **{"http_port": 0, "approval_policy": UNSIGNED, **options},
    )
    runtime = Runtime("gateway")
    async with (
        open_pool(database.dsn(), application="test") as pool,
        serve_before_ready(settings, runtime) as port,
    ):
        running = RunningGateway(f"http://127.0.0.1:{port}", database, pool, settings, runtime)
        try:
            yield running
        finally:
            await asyncio.gather(*(client.aclose() for client in running.clients))
            runtime.request_stop("the test is over")
