"""Workflows of installed packages: found when the worker starts, never in a workflow, and published for the gateway."""

import asyncio
import inspect
from collections.abc import Sequence

import asyncpg
import structlog

from flotilla.actions.plugins import load_plugins
from flotilla.contracts.envelope import to_json
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import QUESTION
from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.workflows.declaration import DeclaredWorkflow, declaration_of
from workflow_worker.workflows.chat import ChatWorkflow
from workflow_worker.workflows.supervise import SuperviseWorkflow

GROUP = "flotilla.workflows"
BUILT_IN: tuple[type, ...] = (SuperviseWorkflow, ChatWorkflow)
"""Those of the worker itself that are started as those of packages are."""
HEARTBEAT_S = 10.0
_PUBLISH = """
INSERT INTO flotilla_ops.workflows AS w
    (name, instance, version, task_queue, description, input_schema, output_schema)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb)
ON CONFLICT (name, instance) DO UPDATE SET
    version = excluded.version, task_queue = excluded.task_queue, description = excluded.description,
    input_schema = excluded.input_schema, output_schema = excluded.output_schema, last_seen = now()
"""
# Workers that were replaced; the last one of a workflow stays, so that what is known of it is not lost.
_FORGET = """
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
    found = {declared.name: declared for declared in map(declaration_of, BUILT_IN) if declared is not None}
    for entry, cls in _loaded().items():
        declared = declaration_of(cls)
        if declared is None:
            raise ConfigurationError(f"entry point {entry} in {GROUP} must name a class with @flotilla_workflow")
        if declared.name in found or declared.name == QUESTION:
            raise ConfigurationError(f"entry point {entry} in {GROUP}: the name {declared.name} is taken")
        declared.schemas()
        found[declared.name] = declared
    return list(found.values())


def _loaded() -> dict[str, object]:
    try:
        return load_plugins(GROUP)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"a package with an entry point in {GROUP} can't be imported: {type(error).__name__}: {error}"
        ) from error


class WorkflowPublisher:
    """What this worker has installed, in `flotilla_ops.workflows`."""

    def __init__(self, pool: Pool, workflows: Sequence[DeclaredWorkflow], task_queue: str, instance: str) -> None:
        self._pool = pool
        self._rows = [_row(declared, task_queue, instance) for declared in workflows]

    async def run(self, stop: asyncio.Event) -> None:
        """Publish now and every 10 s until `stop`. Work goes on while PostgreSQL is unavailable."""
        if not self._rows:
            await stop.wait()  # a job that returns counts as one that ended
        while not stop.is_set():
            try:
                await self._pool.executemany(_PUBLISH, self._rows)
                await self._pool.execute(_FORGET)
            except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
                log.warning("workflows_not_published", error=str(error) or type(error).__name__)
            await sleep_or_stop(stop, HEARTBEAT_S)


def _row(declared: DeclaredWorkflow, task_queue: str, instance: str) -> tuple[str, ...]:
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
