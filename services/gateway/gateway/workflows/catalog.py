"""Which workflows the fleet's workers serve, and whether an input is one of theirs."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from flotilla.contracts.errors import Invalid
from flotilla.contracts.json_types import JsonObject
from flotilla.postgres import Pool
from flotilla.runtime.confined import FunctionRunner
from gateway.json_schemas import check_fits_schema

# The newest worker of each name first. One that was not seen for a quarter of an hour serves nothing.
_LIST_WORKFLOWS = """
SELECT name, version, task_queue, description, input_schema, output_schema, started_at, last_seen,
    last_seen > now() - interval '1 minute' AS alive, last_seen > now() - interval '15 minutes' AS served
FROM flotilla_ops.workflows WHERE $1::text IS NULL OR name = $1
ORDER BY name, started_at DESC, instance
"""
_SELECT_NAMES_WORKFLOWS = """
SELECT DISTINCT name FROM flotilla_ops.workflows WHERE last_seen > now() - interval '15 minutes' ORDER BY name LIMIT $1
"""
_MOST_IN_A_MESSAGE = 20


class UnknownWorkflow(Invalid):
    """No worker serves a workflow of that name."""

    code = "unknown_workflow"


@dataclass(frozen=True, slots=True)
class ServedWorkflow:
    """A workflow that can be started."""

    name: str
    version: str
    task_queue: str
    input_schema: str
    last_seen: datetime


async def load_workflow_rows(pool: Pool, name: str | None = None) -> list[asyncpg.Record]:
    """The workers of each workflow, or of one, by name."""
    return await pool.fetch(_LIST_WORKFLOWS, name)


async def find_served_workflow(pool: Pool, name: str) -> ServedWorkflow:
    """The workflow as its newest worker serves it.

    Raises:
        UnknownWorkflow: no worker serves it; the message names those that are served.
    """
    for row in await load_workflow_rows(pool, name):
        if row["served"]:
            return ServedWorkflow(row["name"], row["version"], row["task_queue"], row["input_schema"], row["last_seen"])
    names = ", ".join(await list_served_names(pool, _MOST_IN_A_MESSAGE))
    raise UnknownWorkflow(f"no worker serves workflow {name}: there are {names or 'none'}")


async def list_served_names(pool: Pool, at_most: int | None = None) -> list[str]:
    """Return the names of the workflows that a worker serves."""
    return [row["name"] for row in await pool.fetch(_SELECT_NAMES_WORKFLOWS, at_most)]


async def check_workflow_input(run: FunctionRunner, workflow: ServedWorkflow, data: JsonObject) -> None:
    """Check that `data` is what the workflow takes.

    Raises:
        RequestValidationError: it is not; with the places in the body, at most 20.
        Invalid: the workflow's schema is not valid, or the check takes too long.
        RetryLater: too many checks run already.
    """
    await check_fits_schema(run, workflow.input_schema, data, "input", "workflow_input")
