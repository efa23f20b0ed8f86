"""What is open in a session whose key is destroyed: it ends, with its reason, in the database and in Temporal."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import connect_redis
from flotilla.bus.live import LiveRunWriter
from flotilla.contracts.orders import order_step_id
from flotilla.contracts.requests import OrderRequest
from flotilla.encryption import WHY_ERASED, KeyFile, Keyring
from flotilla.postgres import Connection, Pool, open_pool, tenant_transaction
from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.integration.gateway.test_governed import WAITS
from tests.integration.gateway.test_privacy import Killed, confirmed
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway
from tests.support.policies import UNSIGNED
from tests.support.tickets import SIGNER
from tests.support.waiting import eventually
from workflow_worker import erasures
from workflow_worker.actions.registry import load_action_handlers
from workflow_worker.activities import actions, gated_calls, orders, pipelines, runs
from workflow_worker.activities.signatures.orders import RESERVE_FUNDS, OrderReference, OrderStep
from workflow_worker.duties import make_reconciled_row_kinds
from workflow_worker.erased_work import ERASED_WORK_GRACE_PERIOD, ErasedWorkDuty
from workflow_worker.erasures import ErasureDuty
from workflow_worker.reconciler import ReconciledRowKind
from workflow_worker.schedule_duty import ScheduleSyncDuty

__all__ = ["key_file"]
NEVER = {"cron": ["0 0 29 2 *"]}
MONEY = "SELECT available_minor FROM flotilla.accounts WHERE user_id = 'ada'"
ACCOUNT = (
    "INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor) VALUES ('acme', 'ada', 'EUR', 10000)"
)
HOOK = """
INSERT INTO flotilla.webhook_deliveries (tenant_id, delivery_id, approval_id, kind, url, body)
VALUES ('acme', 'd', $1, 'approval.requested', 'http://nowhere.invalid', 'x')
"""
ASKED = """
INSERT INTO flotilla.questions (tenant_id, question_id, session_id, run_id, workflow_id, question, answer_schema, roles)
VALUES ('acme', 'q', $1, $2, 'w', 'Which?', '{}', '{}')
"""
GIVEN_OUT = """
WITH given AS (
    INSERT INTO flotilla.delegations (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id,
        workflow_id, workflow_run_id, activity_id, deadline, secret_hash)
    VALUES ('acme', $1, 1, $2, 0, $5, '{}', $3, $4, 'w', 'r', 'x', now(), decode(repeat('00', 32), 'hex')))
INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status)
VALUES ('acme', $1, $5, $3, $4, 'queued')
"""
ENDED = """
SELECT 'run' AS kind, status, error ->> 'type' AS type, error ->> 'message' AS why FROM flotilla.runs
UNION ALL SELECT 'action', status, approval_status, error ->> 'message' FROM flotilla.actions
UNION ALL SELECT 'vote', status, NULL, NULL FROM flotilla.approvals
UNION ALL SELECT 'order', status, approval, reason FROM flotilla.orders
UNION ALL SELECT 'task', status, error ->> 'type', error ->> 'message' FROM flotilla.pipelines
UNION ALL SELECT 'question', status, NULL, NULL FROM flotilla.questions
UNION ALL SELECT 'webhook', status, NULL, last_error FROM flotilla.webhook_deliveries
UNION ALL SELECT 'try ' || task_id, state, NULL, NULL FROM flotilla.delegations
"""
WAITING = """
SELECT FROM flotilla.actions WHERE approval_status = 'pending'
UNION ALL SELECT FROM flotilla.pipelines WHERE status = 'running'
"""
OPEN = """
SELECT workflow_id FROM flotilla.runs UNION ALL SELECT workflow_id FROM flotilla.actions
UNION ALL SELECT workflow_id FROM flotilla.orders UNION ALL SELECT workflow_id FROM flotilla.pipelines
"""


@pytest.fixture
async def encrypting(replica: Replica, key_file: Path) -> AsyncIterator[RunningGateway]:
    """A replica that encrypts."""
    async with replica(encryption="on", encryption_key_file=key_file) as running:
        yield running


@pytest.fixture
async def worker_pool(encrypting: RunningGateway, key_file: Path) -> AsyncIterator[Pool]:
    ring = Keyring(KeyFile(key_file), writes=True)
    async with open_pool(encrypting.database.dsn("flotilla_worker"), application="test", keyring=ring) as pool:
        yield pool


@pytest.fixture
async def kinds(worker_pool: Pool, redis_url: str) -> AsyncIterator[Mapping[str, ReconciledRowKind]]:
    policy, registry = ReloadingPolicyFile(UNSIGNED), load_action_handlers()
    async with connect_redis(redis_url) as redis, httpx.AsyncClient() as http:
        yield make_reconciled_row_kinds(
            runs.RunActivities(worker_pool, LiveRunWriter(redis)),
            actions.ActionActivities(worker_pool, policy, registry, http, signer=SIGNER),
            orders.OrderActivities(worker_pool),
            pipelines.PipelineActivities(worker_pool),
            gated_calls.GatedCallActivities(worker_pool),
        )


async def open_work_of_ada(gateway: RunningGateway, worker_pool: Pool, name: str) -> None:
    """One of each kind, as it is where no worker runs: a run with a question and a call, an action with a vote, an
    order whose money is reserved, a task with a call, a schedule."""
    await gateway.as_superuser(ACCOUNT)
    ada = await gateway.client_of("ada", "operator", "approver", person=True)
    run = (await ada.post(f"/v1/sessions/{name}/runs", json={"query": "Why?"})).json()["run_id"]
    action = await ada.post("/v1/actions", json={"action": "echo", "description": "d", "args": {"text": "hi"}})
    task = (await ada.post("/v1/tasks", json={"steps": ["research"], "input": {"text": "hi"}})).json()
    order = {"order_id": name, "user_id": "ada", "amount": "12.50", "product_id": "p-1"}
    assert (await ada.post("/v1/orders", json=order)).status_code == 202
    made = await ada.post("/v1/schedules", json={"schedule_id": "s", "query": "Why?", **NEVER})
    assert made.status_code == 201, made.text
    await execute(gateway, ASKED, name, run)
    for attempt in ((f"{run}-t", f"{run}-t", name, run, "research"), (f"{run}-c", f"{run}-c", name, run, "mcp")):
        await execute(gateway, GIVEN_OUT, *attempt)
    task_id, session = task["task_id"], task["session_id"]
    await execute(gateway, GIVEN_OUT, f"{task_id}~1", task_id, session, None, "research")
    await execute(gateway, GIVEN_OUT, f"{task_id}-1.mcp.0", f"{task_id}-1.mcp.0", session, None, "mcp")
    action_id = action.json()["action_id"]
    [row] = await gateway.rows("SELECT session_id FROM flotilla.actions WHERE action_id = $1", action_id)
    await execute(gateway, WAITS, action_id, row["session_id"], None)
    await execute(gateway, HOOK, action_id)
    [row] = await gateway.rows("SELECT session_id FROM flotilla.orders")
    key = OrderReference(tenant_id="acme", order_id=name, session_id=row["session_id"])
    request = OrderRequest(
        order_id=name, user_id="ada", amount_minor=1250, product_id="p-1", tenant_id="acme", session_id=key.session_id
    )
    step = OrderStep(key=key, step_id=order_step_id(RESERVE_FUNDS, name), order=request)
    await orders.OrderActivities(worker_pool).reserve_funds(step)


async def execute(gateway: RunningGateway, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """Execute what no role of the fleet may."""
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


class Duties:
    """What the worker's leader does, a round at a time, with no time for workflows to end by themselves."""

    def __init__(self, pool: Pool, client: Client, kinds: Mapping[str, ReconciledRowKind]) -> None:
        self._duties = (
            ErasureDuty(pool).run_once,
            ErasedWorkDuty(pool, client, kinds, ERASED_WORK_GRACE_PERIOD * 0).run_once,
            ScheduleSyncDuty(pool, client, "q").run_round,
        )

    async def run_once(self) -> None:
        for duty in self._duties:
            await duty()


async def assert_all_ended(gateway: RunningGateway, client: Client) -> None:
    ended = sorted(tuple(row) for row in await gateway.rows(ENDED))
    tries = [row for row in ended if row[0].startswith("try ")]
    assert [row for row in ended if row not in tries] == [
        ("action", "cancelled", "cancelled", WHY_ERASED),
        ("order", "rejected", "cancelled", WHY_ERASED),
        ("question", "cancelled", None, None),
        ("run", "cancelled", "SessionErased", WHY_ERASED),
        ("task", "cancelled", "SessionErased", WHY_ERASED),
        ("vote", "cancelled", None, None),
        ("webhook", "failed", None, "the vote ended first"),
    ]
    assert [state for _, state, *_ in tries] == ["cancelled"] * 4
    assert {row[0] for row in await gateway.rows("SELECT status FROM flotilla.agent_tasks")} == {"cancelled"}
    for (workflow_id,) in await gateway.rows(OPEN):
        described = await client.get_workflow_handle(workflow_id).describe()
        assert described.status == WorkflowExecutionStatus.TERMINATED
    assert [row[0] for row in await gateway.rows(MONEY)] == [10_000]


async def test_all_that_is_open_ends_with_its_person(
    encrypting: RunningGateway,
    worker_pool: Pool,
    kinds: Mapping[str, ReconciledRowKind],
    temporal_client: Client,
    unique: Callable[[str], str],
) -> None:
    name = unique("s")
    await open_work_of_ada(encrypting, worker_pool, name)
    [schedule] = await execute(encrypting, "SELECT temporal_id FROM flotilla.schedules")
    admin = await encrypting.client_of("otto", "admin", person=True)
    plan = (await admin.get("/v1/privacy/plan", params={"subject": "ada"})).json()
    assert (plan["open_runs"], plan["other_open_work"], plan["schedules"]) == (1, 3, 1)
    erasure_id = await confirmed(encrypting)
    assert await worker_pool.fetch("SELECT * FROM flotilla.unfinished_work('0', 'epoch', true, 10)") == []
    duties = Duties(worker_pool, temporal_client, kinds)
    await duties.run_once()
    await assert_all_ended(encrypting, temporal_client)
    await duties.run_once()
    assert (await admin.get(f"/v1/privacy/erasures/{erasure_id}")).json()["finished_at"]
    with pytest.raises(RPCError) as gone:
        await temporal_client.get_schedule_handle(schedule["temporal_id"]).describe()
    assert gone.value.status == RPCStatusCode.NOT_FOUND
    assert await execute(encrypting, "SELECT FROM flotilla.schedules") == []


async def test_it_ends_wherever_the_worker_is_killed(
    encrypting: RunningGateway,
    *,
    worker_pool: Pool,
    kinds: Mapping[str, ReconciledRowKind],
    temporal_client: Client,
    unique: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_work_of_ada(encrypting, worker_pool, unique("s"))
    erasure_id = await confirmed(encrypting)
    duties = Duties(worker_pool, temporal_client, kinds)
    killed, commits = 0, 0
    while True:
        dying = killed_after(commits)
        with monkeypatch.context() as patch:
            for module in (erasures, actions, gated_calls, orders, pipelines, runs):
                patch.setattr(module, "tenant_transaction", dying)
            try:
                await duties.run_once()
                break
            except Killed:
                killed, commits = killed + 1, commits + 1
    assert killed >= 5
    await duties.run_once()
    await assert_all_ended(encrypting, temporal_client)
    admin = await encrypting.client_of("otto", "admin", person=True)
    assert (await admin.get(f"/v1/privacy/erasures/{erasure_id}")).json()["finished_at"]


def killed_after(commits: int) -> Any:
    """`tenant_transaction`, but that the process ends within the one after so many commits."""
    left = commits

    @asynccontextmanager
    async def dying(pool: Pool, tenant_id: str, **options: Any) -> AsyncIterator[Connection]:
        nonlocal left
        async with tenant_transaction(pool, tenant_id, **options) as connection:
            yield connection
            if left == 0:
                raise Killed
        left -= 1

    return dying


async def test_an_order_that_was_approved_stays_so(
    encrypting: RunningGateway,
    worker_pool: Pool,
    kinds: Mapping[str, ReconciledRowKind],
    temporal_client: Client,
    unique: Callable[[str], str],
) -> None:
    await open_work_of_ada(encrypting, worker_pool, unique("s"))
    await encrypting.as_superuser("UPDATE flotilla.orders SET approval = 'approved', confirmation = 'C-1'")
    await confirmed(encrypting)
    await Duties(worker_pool, temporal_client, kinds).run_once()
    [order] = await encrypting.rows("SELECT status, confirmation, finished_at FROM flotilla.orders")
    assert (order["status"], order["confirmation"], order["finished_at"] is None) == ("approved", "C-1", False)
    assert [row[0] for row in await encrypting.rows(MONEY)] == [8_750]


async def test_an_order_that_can_not_be_undone_ends_for_a_person_to_see_to(
    encrypting: RunningGateway,
    worker_pool: Pool,
    kinds: Mapping[str, ReconciledRowKind],
    temporal_client: Client,
    unique: Callable[[str], str],
) -> None:
    await open_work_of_ada(encrypting, worker_pool, unique("s"))
    await encrypting.as_superuser("UPDATE flotilla.accounts SET available_minor = 9223372036854775807")
    await confirmed(encrypting)
    await Duties(worker_pool, temporal_client, kinds).run_once()
    [order] = await encrypting.rows("SELECT status, reason FROM flotilla.orders")
    assert tuple(order) == ("compensation_failed", WHY_ERASED)


async def test_what_people_are_asked_about_and_agents_work_on_ends_by_itself(
    encrypting: RunningGateway,
    *,
    redis_url: str,
    temporal_address: str,
    temporal_client: Client,
    gate: Gate,
    key_file: Path,
) -> None:
    ada = await encrypting.client_of("ada", "operator", person=True)
    keys: dict[str, Any] = {"encryption": "on", "encryption_key_file": key_file}
    async with answering(encrypting, redis_url, temporal_address, gate, **keys):
        body = {"action": "echo", "description": "d", "risk_level": "high", "args": {"text": "hi"}}
        action_id = (await ada.post("/v1/actions", json=body)).json()["action_id"]
        task_id = (await ada.post("/v1/tasks", json={"steps": ["research"], "input": {"query": "?"}})).json()["task_id"]

        async def both_wait() -> bool:
            return len(await encrypting.rows(WAITING)) == 2

        await eventually(both_wait, 30)
        erasure_id = await confirmed(encrypting)
        admin = await encrypting.client_of("otto", "admin", person=True)

        async def finished() -> bool:
            return bool((await admin.get(f"/v1/privacy/erasures/{erasure_id}")).json()["finished_at"])

        await eventually(finished, 60)
    [action] = await encrypting.rows("SELECT status FROM flotilla.actions WHERE action_id = $1", action_id)
    [vote] = await encrypting.rows("SELECT status FROM flotilla.approvals WHERE approval_id = $1", action_id)
    [task] = await encrypting.rows("SELECT status FROM flotilla.pipelines WHERE task_id = $1", task_id)
    assert (action["status"], vote["status"], task["status"]) == ("cancelled", "cancelled", "cancelled")
    assert await encrypting.rows("SELECT FROM flotilla.delegations WHERE state = 'open'") == []
    for (workflow_id,) in await encrypting.rows(OPEN):
        described = await temporal_client.get_workflow_handle(workflow_id).describe()
        assert described.status != WorkflowExecutionStatus.RUNNING


async def test_a_schedule_into_an_erased_session_is_paused_with_the_reason(
    encrypting: RunningGateway, worker_pool: Pool, temporal_client: Client, unique: Callable[[str], str]
) -> None:
    session = unique("s")
    ada = await encrypting.client_of("ada", "operator", person=True)
    run_id = (await ada.post(f"/v1/sessions/{session}/runs", json={"query": "Why?"})).json()["run_id"]
    await encrypting.finish(run_id)
    bob = await encrypting.client_of("bob", "operator", "admin", person=True)
    made = await bob.post("/v1/schedules", json={"schedule_id": "b", "query": "Why?", "session_id": session, **NEVER})
    assert made.status_code == 201, made.text
    await confirmed(encrypting)
    await ScheduleSyncDuty(worker_pool, temporal_client, "q").run_round()
    [schedule] = await execute(encrypting, "SELECT paused, note, temporal_id FROM flotilla.schedules")
    assert (schedule["paused"], schedule["note"]) == (True, WHY_ERASED)
    described = await temporal_client.get_schedule_handle(schedule["temporal_id"]).describe()
    assert described.schedule.state.paused
