"""What the code of an installed workflow does through its `Run`: records, stored results, usage."""

import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.json_types import JsonObject, JsonValue
from flotilla.contracts.names import workflow_source
from flotilla.contracts.results import canonical_bytes, result_reference
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.contracts.tasks import MAX_INLINE_RESULT_BYTES, root_task_id
from flotilla.encryption.tables import AGENT_TASKS
from flotilla.outbox import append
from flotilla.postgres import Connection, Pool, open_rows, seal_columns, tenant_transaction
from flotilla.workflows.calls.children import FIND_WORKFLOW, FindWorkflow, WorkflowServer
from flotilla.workflows.calls.custom import (
    COMBINE_RESULTS,
    LOAD_RESULT,
    MAX_LOADED_BYTES,
    RECORD_EVENTS,
    STEP_FINISHED,
    SUM_USAGE,
    CombineResults,
    LoadedResult,
    RunEventRecords,
    RunNote,
    StoredResultReference,
    Usage,
)
from flotilla.workflows.calls.runs import RunKey
from workflow_worker.routes import load_routed_versions

# Takes the run's row lock; nothing where the record is in the session already, or the run has ended.
_ADVANCE_RECORD_NUMBER = """
UPDATE flotilla.runs SET recorded = $3
WHERE tenant_id = $1 AND run_id = $2 AND recorded = $3 - 1 AND status IN ('pending', 'running', 'interrupted')
RETURNING session_id
"""
# Of tasks of the run only.
_SELECT_TASK_RESULTS = """
SELECT task_id, session_id, result FROM flotilla.agent_tasks
WHERE tenant_id = $1 AND run_id = $2 AND task_id = ANY($3) AND status = 'done' AND result IS NOT NULL
"""
_INSERT_COMBINED_RESULT = """
INSERT INTO flotilla.agent_tasks
    (tenant_id, task_id, agent, session_id, run_id, status, result, finished_at, duration_ms)
VALUES ($1, $2, 'combine', $3, $4, 'done', $5, now(), 0) ON CONFLICT DO NOTHING
"""
_SUM_MODEL_USAGE = """
SELECT count(*) AS calls, coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens,
    (SELECT coalesce(sum(s.nanos), 0) FROM flotilla.llm_spend AS s WHERE s.tenant_id = $1 AND s.run_id = $2) AS nanos
FROM flotilla.llm_calls WHERE tenant_id = $1 AND run_id = $2
"""
_SELECT_WORKFLOW_SERVER = """
SELECT version, task_queue FROM flotilla_ops.workflows
WHERE name = $1 AND last_seen > now() - interval '15 minutes' ORDER BY started_at DESC, instance LIMIT 1
"""
NANOS_PER_CURRENCY_UNIT = 10**9
"""Of a unit of the currency: what spending is counted in."""
MAX_COMBINED_BYTES = 50_000_000
"""Of results that are combined into one: an agent reads them at once."""


class WorkflowRunActivities:
    """The activities behind `flotilla.workflows.Run`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @activity.defn(name=RECORD_EVENTS)
    async def record_events(self, records: RunEventRecords) -> None:
        """Append a run's record to its session. Idempotency key: (tenant, run id, number)."""
        run = records.run
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            session_id = await connection.fetchval(_ADVANCE_RECORD_NUMBER, run.tenant_id, run.run_id, records.number)
            if session_id is None:
                return
            tasks = [note.task_id for note in records.notes if note.task_id]
            results = await _load_task_results(connection, run, tasks)
            versions = await load_routed_versions(
                connection, run.tenant_id, [_root_task_id_of_note(note) for note in records.notes]
            )
            source = workflow_source(records.workflow)
            events = [_session_event_of_note(note, source, run.run_id, results, versions) for note in records.notes]
            await append(connection, run.tenant_id, session_id, events)

    @activity.defn(name=FIND_WORKFLOW)
    async def find_workflow(self, wanted: FindWorkflow) -> WorkflowServer:
        """Return where the workflow is served, by the worker that started last with it.

        Raises:
            ApplicationError: `UnknownWorkflow`: no worker has served it for a quarter of an hour.
        """
        row = await self._pool.fetchrow(_SELECT_WORKFLOW_SERVER, wanted.name)
        if row is None:
            raise _non_retryable_error("UnknownWorkflow", f"no worker serves workflow {wanted.name}")
        return WorkflowServer(version=row["version"], task_queue=row["task_queue"])

    @activity.defn(name=LOAD_RESULT)
    async def load_result(self, stored: StoredResultReference) -> LoadedResult:
        """Return a stored result whole.

        Raises:
            ApplicationError: `NotFound`, or `Oversize`: the workflow's history should not hold it.
        """
        async with tenant_transaction(self._pool, stored.run.tenant_id) as connection:
            result = (await _load_task_results(connection, stored.run, [stored.task_id])).get(stored.task_id)
        if result is None:
            raise _non_retryable_error("NotFound", f"task {stored.task_id} has no stored result")
        if len(result.encode()) > MAX_LOADED_BYTES:
            raise _non_retryable_error(
                "Oversize",
                f"the result of task {stored.task_id} has over {MAX_LOADED_BYTES} bytes: ask without `returns`, and "
                "pass it on with `input_from`",
            )
        return LoadedResult(data=from_json(result, dict))

    @activity.defn(name=COMBINE_RESULTS)
    async def combine_results(self, combination: CombineResults) -> None:
        """Store several results as one. Idempotency key: (tenant, task id).

        Raises:
            ApplicationError: `NotFound`: a part has no result. `Oversize`: together they are too large.
        """
        run = combination.run
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            results = await _load_task_results(connection, run, combination.parts)
            if missing := [part for part in combination.parts if part not in results]:
                raise _non_retryable_error("NotFound", f"task {missing[0]} has no stored result")
            if sum(map(len, results.values())) > MAX_COMBINED_BYTES:
                raise _non_retryable_error(
                    "Oversize", f"the {len(results)} results have over {MAX_COMBINED_BYTES} bytes together"
                )
            body = to_json({"results": [msgspec.Raw(results[part].encode()) for part in combination.parts]})
            task_id, session_id = combination.task_id, combination.session_id
            stored = await seal_columns(
                connection, run.tenant_id, session_id, AGENT_TASKS, task_id, result=body.decode()
            )
            await connection.execute(
                _INSERT_COMBINED_RESULT, run.tenant_id, task_id, session_id, run.run_id, stored["result"]
            )

    @activity.defn(name=SUM_USAGE)
    async def sum_usage(self, run: RunKey) -> Usage:
        """Return what the models of the run's agents have counted so far."""
        async with tenant_transaction(self._pool, run.tenant_id) as connection:
            row = await connection.fetchrow(_SUM_MODEL_USAGE, run.tenant_id, run.run_id)
        assert row is not None  # noqa: S101 - an aggregate always gives one row
        return Usage(
            calls=row["calls"],
            input_tokens=int(row["input_tokens"]),
            output_tokens=int(row["output_tokens"]),
            cost=int(row["nanos"]) / NANOS_PER_CURRENCY_UNIT,
        )


async def _load_task_results(connection: Connection, run: RunKey, task_ids: list[str]) -> dict[str, str]:
    if not task_ids:
        return {}
    found = await connection.fetch(_SELECT_TASK_RESULTS, run.tenant_id, run.run_id, task_ids)
    rows = await open_rows(connection, run.tenant_id, AGENT_TASKS, found)
    return {row["task_id"]: row["result"] for row in rows}


def _root_task_id_of_note(note: RunNote) -> str:
    """The task that a step began with; empty for a note of something else."""
    details = note.data.get("details") if note.data.get("change") == STEP_FINISHED else None
    return root_task_id(str(details["task_id"])) if isinstance(details, dict) else ""


def _session_event_of_note(
    note: RunNote, source: str, run_id: str, results: dict[str, str], versions: dict[str, dict[str, JsonValue]]
) -> AgentStateEvent:
    data = dict(note.data)
    added: dict[str, JsonValue] = {}
    if note.task_id is not None and (result := results.get(note.task_id)) is not None:
        added.update(_result_for_event(note.task_id, result))
    if routed := versions.get(_root_task_id_of_note(note)):
        added["versions"] = routed
    if added:
        details = data["details"]
        assert isinstance(details, dict)  # noqa: S101 - a step's note
        data["details"] = {**details, **added}
    return AgentStateEvent(kind=note.kind, data=data, source=source, run_id=run_id, task_id=note.task_id)


def _result_for_event(task_id: str, result: str) -> JsonObject:
    """The result itself, or what stands for a large one."""
    found = from_json(result, dict)
    if len(canonical_bytes(found)) <= MAX_INLINE_RESULT_BYTES:
        return {"result": found}
    reference = result_reference(task_id, found)
    return {"sha256": reference.sha256, "size_bytes": reference.size_bytes, "summary": reference.summary}


def _non_retryable_error(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)
