"""Two tenants with the same kinds of rows, and an agent among them."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool, open_pool, tenant_transaction
from tests.support.agents import delegate, task
from tests.support.postgres import Database
from tests.support.thieves import HELD, TENANT, VICTIM


@pytest.fixture
async def fleet(pool: Pool, database: Database) -> Database:
    """Two tenants with the same kinds of rows; of `default` task t1 is open, and t9 is another agent's."""
    for tenant in (TENANT, VICTIM):
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(_ROWS.replace("TENANT", tenant))
        await KnowledgeBase(pool).add(tenant, UploadedDocument(uri="cats.md", content=b"# Cats\n\nCats eat fish."))
        await delegate(
            pool,
            task(tenant_id=tenant, secret=HELD.secret if tenant == TENANT else "another"),
            task("t9", "research", tenant_id=tenant, session_id="s2", run_id="r2", secret="of research"),
        )
        async with tenant_transaction(pool, tenant) as connection:
            await connection.execute(_WORK.replace("TENANT", tenant))
    owner = await asyncpg.connect(database.superuser_dsn)
    await owner.execute("INSERT INTO flotilla_ops.leases VALUES ('leader', 'w1', 1, 'infinity')")
    await owner.close()
    return database


_ROWS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id)
    VALUES ('TENANT', 's1', 'alice'), ('TENANT', 's2', 'bob');
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources,
    message_seq)
    SELECT 'TENANT', s, 'u', s, 'r', 'q', 'a', '[]', 1 FROM unnest(ARRAY['s1', 's2']) AS s;
INSERT INTO flotilla.runs (tenant_id, run_id, session_id, user_id, workflow_id, query, status, request)
    VALUES ('TENANT', 'r2', 's2', 'bob', 'w', 'q', 'pending', '{}');
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
    VALUES ('TENANT', 'a1', 's1', 'w', 'echo', '', '{}', 'h', 'low', '{}', 'alice', '{}', '1', 1, 'infinity');
INSERT INTO flotilla.approval_decisions (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash,
    policy_version) VALUES ('TENANT', 'a1', 'v1', 'u1', 'bob', 'approve', 'h', '1');
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, request) VALUES ('TENANT', 'a1', 's1', 'w', 'echo', '', '{}', 'low', 'alice', '{"task_id": "t9"}');
"""
_WORK = """
INSERT INTO flotilla.llm_calls (tenant_id, task_id, call_index, request_hash, session_id, agent, model, answer,
    input_tokens, output_tokens, duration_ms)
    VALUES ('TENANT', 't9', 0, 'x', 's2', 'research', 'm', '{"text": "bought"}', 1, 1, 1);
INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
    called, expires_at) VALUES ('TENANT', 't9', 'plus', 'x', 0, 1, 'c', 's2', 'research', '{}', 'infinity');
UPDATE flotilla.agent_tasks SET status = 'done', result = '{"private": 1}' WHERE task_id = 't9';
"""


@pytest.fixture
async def agent(fleet: Database) -> AsyncIterator[Pool]:
    async with open_pool(fleet.dsn("flotilla_agent_adder"), application="mallory") as opened:
        yield opened
