"""The rows behind tasks: which runs are an agent's, what they wait for, who is notified of them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from a2a.types.a2a_pb2 import TaskState

from flotilla.contracts.a2a import AUTH_REQUIRED, DEFAULT_SECRET, INPUT_REQUIRED, TASK_STATES
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import Conflict, Invalid, NotFound
from flotilla.contracts.names import is_valid_id
from flotilla.encryption.tables import RUNS
from flotilla.postgres import Connection, open_row, open_rows, tenant_transaction
from gateway.auth.principal import Principal
from gateway.problems import checked_model
from gateway.runs.askable import RunTarget
from gateway.runs.cited import with_cited_documents
from gateway.runs.notices import checked_receiver
from gateway.runs.records import RUN_COLUMNS, run_from_row, run_not_found
from gateway.schemas.runs import NotifyBody, Run
from gateway.services import GatewayServices

MAX_RECEIVERS = 10
"""Of one task."""
MAX_TOKEN_CHARACTERS = 2000
MAX_COUNTED = 10_000
_CHANGED = "coalesce(finished_at, started_at, created_at)"
_OF_AGENT = "tenant_id = $1 AND workflow = $2 AND coalesce(request -> 'steps', '[]') = $3::jsonb"
_SELECT_RUNS = f"SELECT {RUN_COLUMNS} FROM flotilla.runs WHERE {_OF_AGENT} AND run_id = $4"  # noqa: S608 - constants
_DECISIONS = """EXISTS (SELECT FROM flotilla.approvals AS a
    WHERE a.tenant_id = $1 AND a.run_id = r.run_id AND a.status = 'pending')"""
_QUESTIONS = """EXISTS (SELECT FROM flotilla.questions AS q
    WHERE q.tenant_id = $1 AND q.run_id = r.run_id AND q.status = 'open')"""
# What an interrupted run waits for, as `flotilla.contracts.a2a.task_state` has it.
_STATE = f"""CASE WHEN status <> 'interrupted' THEN status WHEN {_DECISIONS} THEN '{AUTH_REQUIRED}'
    WHEN {_QUESTIONS} THEN '{INPUT_REQUIRED}' ELSE status END"""
_ONLY = f"""{_OF_AGENT} AND ($4::text IS NULL OR session_id = $4)
  AND ($5::text[] IS NULL OR (status = ANY ($5 || ARRAY['interrupted']) AND {_STATE} = ANY ($5)))
  AND ($6::timestamptz IS NULL OR {_CHANGED} >= $6)"""
# A page, what changed last first; $8 and $9 are the last row of the page before.
_LIST_RUNS = f"""
SELECT {RUN_COLUMNS}, {_CHANGED} AS changed_at FROM flotilla.runs AS r
WHERE {_ONLY} AND ($8::timestamptz IS NULL OR ({_CHANGED}, run_id) < ($8, $9))
ORDER BY {_CHANGED} DESC, run_id DESC LIMIT $7
"""  # noqa: S608
_COUNT_RUNS = f"SELECT count(*) FROM (SELECT FROM flotilla.runs AS r WHERE {_ONLY} LIMIT {MAX_COUNTED}) AS counted"  # noqa: S608
_SELECT_A2A_RECEIVERS = """
SELECT config_id, url FROM flotilla.a2a_receivers WHERE tenant_id = $1 AND run_id = $2 ORDER BY config_id
"""
# Of two requests at once, the second one counts what the first one added.
_LOCK_RUNS = "SELECT FROM flotilla.runs WHERE tenant_id = $1 AND run_id = $2 FOR NO KEY UPDATE"
_DELETE_A2A_RECEIVERS = "DELETE FROM flotilla.a2a_receivers WHERE tenant_id = $1 AND run_id = $2 AND config_id = $3"
_INSERT_A2A_RECEIVERS = f"""
INSERT INTO flotilla.a2a_receivers (tenant_id, run_id, config_id, session_id, url, token, secret_ref, created_by)
SELECT $1::text, $2::text, $3, $4, $5, $6, $7, $8
WHERE (SELECT count(*) FROM flotilla.a2a_receivers WHERE tenant_id = $1 AND run_id = $2) < {MAX_RECEIVERS}
"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReceiver:
    """Who is notified of a task; `token` and `secret_ref` as the client gave them."""

    config_id: str
    url: str
    token: str = ""
    secret_ref: str = DEFAULT_SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a listing has."""

    session_id: str | None = None
    state: TaskState = TaskState.TASK_STATE_UNSPECIFIED
    """Unspecified: whatever it is."""
    changed_after: datetime | None = None


async def load_task_run(services: GatewayServices, tenant_id: str, agent: RunTarget, run_id: str) -> Run:
    """Return the run of one of the agent's tasks, with no source that the caller may not read.

    Raises:
        NotFound: the caller sees no such task, or it is another agent's.
    """
    if not is_valid_id(run_id):
        raise run_not_found(run_id)
    async with tenant_transaction(services.pool, tenant_id) as connection:
        found = await connection.fetchrow(_SELECT_RUNS, *_place(tenant_id, agent), run_id)
        if found is None:
            raise run_not_found(run_id)
        row = await open_row(connection, tenant_id, RUNS, found)
        [run] = await with_cited_documents(connection, tenant_id, [run_from_row(row)])
    return run


async def list_task_runs(
    services: GatewayServices,
    tenant_id: str,
    agent: RunTarget,
    only: TaskFilter,
    *,
    limit: int,
    before: tuple[datetime | None, str | None],
) -> tuple[list[dict[str, Any]], list[Run], int]:
    """Return the rows of a page, their runs, and how many tasks there are, counted up to 10,000."""
    place = (*_place(tenant_id, agent), only.session_id, _states(only.state), only.changed_after)
    async with tenant_transaction(services.pool, tenant_id) as connection:
        rows = await open_rows(connection, tenant_id, RUNS, await connection.fetch(_LIST_RUNS, *place, limit, *before))
        count = await connection.fetchval(_COUNT_RUNS, *place)
        runs = await with_cited_documents(connection, tenant_id, [run_from_row(row) for row in rows])
    return rows, runs, count


async def list_push_receivers(services: GatewayServices, tenant_id: str, run_id: str) -> list[PushReceiver]:
    """Return who is notified of the task, without tokens: all who read the session may read this."""
    async with tenant_transaction(services.pool, tenant_id) as connection:
        rows = await connection.fetch(_SELECT_A2A_RECEIVERS, tenant_id, run_id)
    return [PushReceiver(config_id=row["config_id"], url=row["url"]) for row in rows]


async def set_push_receiver(services: GatewayServices, caller: Principal, run: Run, receiver: PushReceiver) -> None:
    """Notify `receiver` of the task from now on, instead of the one with the same id."""
    async with tenant_transaction(services.pool, caller.tenant_id) as connection:
        await add_push_receiver(connection, caller, run.run_id, run.session_id, receiver)


async def add_push_receiver(
    connection: Connection, caller: Principal, run_id: str, session_id: str, receiver: PushReceiver
) -> None:
    """The same, in the caller's transaction.

    Raises:
        Conflict: the task has as many as it may.
    """
    await connection.execute(_LOCK_RUNS, caller.tenant_id, run_id)
    await connection.execute(_DELETE_A2A_RECEIVERS, caller.tenant_id, run_id, receiver.config_id)
    place = (caller.tenant_id, run_id, receiver.config_id, session_id)
    added = await connection.execute(
        _INSERT_A2A_RECEIVERS, *place, receiver.url, receiver.token, receiver.secret_ref, caller.subject
    )
    if added != "INSERT 0 1":
        raise Conflict(f"{MAX_RECEIVERS} receivers are notified of task {run_id}: delete one first")


async def remove_push_receiver(services: GatewayServices, tenant_id: str, run_id: str, config_id: str) -> None:
    """Notify a receiver no longer.

    Raises:
        NotFound: the task has no receiver of that id.
    """
    async with tenant_transaction(services.pool, tenant_id) as connection:
        if await connection.execute(_DELETE_A2A_RECEIVERS, tenant_id, run_id, config_id) != "DELETE 1":
            raise push_receiver_not_found(run_id, config_id)


def push_receiver_not_found(run_id: str, config_id: str) -> NotFound:
    """Says that the task has no such receiver."""
    return NotFound(f"task {run_id} has no push notification configuration {config_id}")


def check_push_receiver(services: GatewayServices, receiver: PushReceiver) -> None:
    """Refuse a receiver that may not get notices.

    Raises:
        Invalid, Forbidden: its URL is not one, or not on a host that may.
        RequestValidationError: its URL is too long, or its secret has a name that no secret has.
    """
    checked_receiver(services, checked_model(NotifyBody, url=receiver.url, secret_ref=receiver.secret_ref))
    token = receiver.token
    if not token.isascii() or not token.isprintable() or len(token) > MAX_TOKEN_CHARACTERS:
        raise Invalid(f"the token is sent as a header: use printable ASCII, at most {MAX_TOKEN_CHARACTERS} characters")


def _states(state: TaskState) -> list[str] | None:
    """What `_STATE` is for tasks of this state."""
    if state == TaskState.TASK_STATE_UNSPECIFIED:
        return None
    name = TaskState.Name(state) if state in TaskState.values() else ""
    return [name, *(status for status, of_task in TASK_STATES.items() if of_task == name)]


def _place(tenant_id: str, agent: RunTarget) -> tuple[str, str, str]:
    return tenant_id, agent.workflow_of_run, to_json(agent.agents_of_run).decode()
