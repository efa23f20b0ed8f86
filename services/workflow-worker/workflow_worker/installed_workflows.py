"""Workflows of installed packages: found when the worker starts, never in a workflow, and published for the gateway."""

import asyncio
import inspect
from collections.abc import Sequence

import asyncpg
import structlog

from flotilla.actions.plugins import load_entry_point_objects
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import QUESTION
from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.workflows.declaration import DeclaredWorkflow, find_workflow_declaration
from workflow_worker.workflows.chat import ChatWorkflow
from workflow_worker.workflows.supervise import SuperviseWorkflow

WORKFLOWS_ENTRY_POINTS = "flotilla.workflows"
BUILTIN_WORKFLOWS: tuple[type, ...] = (SuperviseWorkflow, ChatWorkflow)
"""Those of the worker itself that are started as those of packages are."""
PUBLISH_INTERVAL_S = 10.0
_UPSERT_WORKFLOW = """
INSERT INTO flotilla_ops.workflows AS w
    (name, instance, version, task_queue, description, input_schema, output_schema)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb)
ON CONFLICT (name, instance) DO UPDATE SET
    version = excluded.version, task_queue = excluded.task_queue, description = excluded.description,
    input_schema = excluded.input_schema, output_schema = excluded.output_schema, last_seen = now()
"""
# Workers that were replaced; the last one of a workflow stays, so that what is known of it is not lost.
_DELETE_SILENT_INSTANCES = """
DELETE FROM flotilla_ops.workflows AS w
WHERE w.last_seen < now() - interval '1 hour' AND EXISTS (
    SELECT FROM flotilla_ops.workflows AS n WHERE n.name = w.name AND n.last_seen > w.last_seen)
"""
log = structlog.get_logger(__name__)


def load_installed_workflows() -> list[DeclaredWorkflow]:
    """`supervise`, `chat`, and the workflows of installed packages: entry points in group `flotilla.workflows`.

    Raises:
        ConfigurationError: one can't be imported, is not declared, lacks a schema, or has the name of another.
    """
    found = {
        declared.name: declared
        for declared in map(find_workflow_declaration, BUILTIN_WORKFLOWS)
        if declared is not None
    }
    for entry, cls in _load_workflow_entry_points().items():
        declared = find_workflow_declaration(cls)
        if declared is None:
            raise ConfigurationError(
                f"entry point {entry} in {WORKFLOWS_ENTRY_POINTS} must name a class with @flotilla_workflow"
            )
        if declared.name in found or declared.name == QUESTION:
            raise ConfigurationError(
                f"entry point {entry} in {WORKFLOWS_ENTRY_POINTS}: the name {declared.name} is taken"
            )
        declared.schemas()
        found[declared.name] = declared
    return list(found.values())


def _load_workflow_entry_points() -> dict[str, object]:
    try:
        return load_entry_point_objects(WORKFLOWS_ENTRY_POINTS)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"a package with an entry point in {WORKFLOWS_ENTRY_POINTS} can't be imported: "
            f"{type(error).__name__}: {error}"
        ) from error


class InstalledWorkflowPublisher:
    """What this worker has installed, in `flotilla_ops.workflows`."""

    def __init__(self, pool: Pool, workflows: Sequence[DeclaredWorkflow], task_queue: str, instance: str) -> None:
        self._pool = pool
        self._rows = [_installed_workflow_row(declared, task_queue, instance) for declared in workflows]

    async def publish_until(self, stop: asyncio.Event) -> None:
        """Publish now and every 10 s until `stop`. Work goes on while PostgreSQL is unavailable."""
        if not self._rows:
            await stop.wait()  # a job that returns counts as one that ended
        while not stop.is_set():
            try:
                await self._pool.executemany(_UPSERT_WORKFLOW, self._rows)
                await self._pool.execute(_DELETE_SILENT_INSTANCES)
            except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
                log.warning("workflows_not_published", error=str(error) or type(error).__name__)
            await sleep_or_stop(stop, PUBLISH_INTERVAL_S)


def _installed_workflow_row(declared: DeclaredWorkflow, task_queue: str, instance: str) -> tuple[str, ...]:
    taken, returned = declared.schemas()
    about = inspect.getdoc(declared.workflow) or ""
    return (
        declared.name,
        instance,
        declared.version,
        task_queue,
        about.partition("\n\n")[0],
        to_json(taken).decode(),
        to_json(returned).decode(),
    )
