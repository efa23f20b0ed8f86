"""An agent under test: its handler on real PostgreSQL and Redis."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from flotilla.agent import Agent
from flotilla.agent.handler import AgentTaskHandler
from flotilla.agent.proofs import VoteCheckRules
from flotilla.agent.registration import AgentRegistration
from flotilla.agent.tools import AgentToolBox
from flotilla.approvals.policy import read_policy
from flotilla.bus import Consumer, Publisher, Redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.bus.tickets import SignedEvent, sign_event
from flotilla.contracts import AgentEvent, AgentTask
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.ids import utc_now
from flotilla.contracts.names import reply_stream, run_stream, task_stream
from flotilla.contracts.tasks import TASK_REPLIED, TASK_REQUESTED, ReplyAddress, hop_number, root_task_id
from flotilla.llm import LanguageModel
from flotilla.postgres import Pool, open_pool, tenant_transaction
from tests.support.consumers import consuming, entries
from tests.support.policies import UNSIGNED
from tests.support.postgres import agent_dsn
from tests.support.tickets import KEYS, SIGNER

TRUSTING = VoteCheckRules(read_policy(UNSIGNED))
"""Asks for no signatures."""
TENANT = "default"
SESSION = "s1"
REPLY_TO = ReplyAddress(workflow_id="run-r1", workflow_run_id="x", activity_id="t1")


_DELEGATE = """
WITH opened AS (
    INSERT INTO flotilla.delegations (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id,
        workflow_id, workflow_run_id, activity_id, deadline, secret_hash, input_from)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'run-r1', 'x', 't1', $10, $11, $12) ON CONFLICT DO NOTHING
)
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
VALUES ($1, $2, $6, $8, $9, 'queued', $3)
ON CONFLICT (tenant_id, task_id) DO UPDATE SET status = 'queued', attempt = excluded.attempt, failure = NULL
WHERE agent_tasks.status <> 'done' AND agent_tasks.attempt < excluded.attempt
"""


def task(task_id: str = "t1", agent: str = "adder", **fields: Any) -> AgentTask:
    """A task with a waiting activity."""
    given = {
        "tenant_id": TENANT,
        "session_id": SESSION,
        "run_id": "r1",
        "reply_to": REPLY_TO,
        "input": {},
        "secret": "a secret",
        "deadline": (utc_now() + timedelta(minutes=30)).isoformat(),
        "live": run_stream("r1", "key"),
        **fields,
    }
    return AgentTask(task_id=task_id, agent=agent, **given)


def sealed(wanted: AgentTask) -> SignedEvent:
    """`wanted` with a ticket."""
    event = AgentEvent(type=TASK_REQUESTED, source="/tests", subject=wanted.session_id, data=to_builtins(wanted))
    return sign_event(event, SIGNER)


def sealed_fields(wanted: AgentTask) -> dict[Any, Any]:
    """The fields of its entry."""
    entry = sealed(wanted)
    return {"event": entry.body, "ticket": entry.ticket}


async def publish(pool: Pool, redis: Redis, wanted: AgentTask) -> str:
    """Put `wanted` on its agent's stream, with a ticket, and on record before."""
    await delegate(pool, wanted)
    return await put(redis, wanted)


async def put(redis: Redis, wanted: AgentTask) -> str:
    """Put `wanted` on its agent's stream, with a ticket: enough for an agent without a database."""
    return await Publisher(redis).publish(task_stream(wanted.agent), sealed(wanted))


async def delegate(pool: Pool, *wanted: AgentTask) -> None:
    """Write the rows of tasks as the worker does, of what the agent's database looks at; those on record stay."""
    for tenant_id in {one.tenant_id for one in wanted}:
        async with tenant_transaction(pool, tenant_id) as connection:
            await connection.executemany(_DELEGATE, [_row(one) for one in wanted if one.tenant_id == tenant_id])


def _row(wanted: AgentTask) -> tuple[object, ...]:
    assert wanted.deadline is not None
    assert wanted.secret is not None
    return (
        wanted.tenant_id,
        wanted.task_id,
        wanted.attempt,
        root_task_id(wanted.task_id),
        hop_number(wanted.task_id),
        wanted.agent,
        wanted.slip,
        wanted.session_id,
        wanted.run_id,
        datetime.fromisoformat(wanted.deadline),
        sha256(wanted.secret.encode()).digest(),
        wanted.input_from or "",
    )


async def open_session(pool: Pool, session_id: str = SESSION, tenant_id: str = TENANT) -> None:
    """Makes the session that tasks record in."""
    async with tenant_transaction(pool, tenant_id) as connection:
        await connection.execute(
            "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id) VALUES ($1, $2, 'alice')",
            tenant_id,
            session_id,
        )


@asynccontextmanager
async def running(
    agent: Agent, pool: Pool, redis: Redis, *, model: LanguageModel | None = None, name: str = "c1", **options: Any
) -> AsyncIterator[Consumer]:
    """The agent at work in the database of `pool`, as its own role, as long as the block.

    `executor` is by what it judges votes, `money` which budgets it keeps, `keyring` what it encrypts with,
    `mcp_caller` calls MCP tools at once.
    """
    keyring = options.pop("keyring", None)
    async with open_pool(await agent_dsn(pool, agent.name), application=agent.name, keyring=keyring) as own_pool:
        handler = AgentTaskHandler(
            agent,
            pool=own_pool,
            redis=redis,
            tools=AgentToolBox(agent.tools),
            model=model,
            money=options.pop("money", None),
            keys=KEYS,
            vote_rules=options.pop("vote_rules", TRUSTING),
            mcp_caller=options.pop("mcp_caller", None),
            heartbeat_s=options.pop("heartbeat_s", 5.0),
        )
        if keyring is not None:
            await AgentRegistration(own_pool, agent, name, 1, lambda: 0).upsert_registration()
        letters = PostgresDeadLetterStore(own_pool)
        place = {"group": agent.group, "name": name}
        async with consuming(redis, agent.stream, handler, **place, dead_letters=letters, **options) as consumer:
            yield consumer


async def replies(redis: Redis, status: str | None = None, agent: str = "adder") -> list[dict[str, Any]]:
    """The data of the agent's replies so far; of those with `status`, if given."""
    found = [event["data"] for event in await entries(redis, reply_stream(agent)) if event["type"] == TASK_REPLIED]
    return [reply for reply in found if status in {None, reply["status"]}]


async def rows(pool: Pool, query: str, *arguments: Any) -> list[dict[str, Any]]:
    """Rows as the tenant sees them."""
    async with tenant_transaction(pool, TENANT) as connection:
        return [dict(row) for row in await connection.fetch(query, *arguments)]


async def session_events(pool: Pool) -> list[dict[str, Any]]:
    """The session events in the outbox, in order."""
    found = await rows(pool, "SELECT body FROM flotilla.event_outbox ORDER BY seq")
    return [json.loads(row["body"]) for row in found]
