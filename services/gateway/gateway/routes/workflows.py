"""Workflows: which ones can be started."""

import json
from itertools import groupby
from operator import itemgetter

import asyncpg

from flotilla.contracts.errors import no_such
from gateway.auth.principal import EVERYONE
from gateway.guard import allow, guarded_router
from gateway.routes.documented import documented_errors
from gateway.schemas.common import ResourceId
from gateway.schemas.workflows import Workflow, WorkflowList
from gateway.services import Caller, Wired
from gateway.workflows.catalog import load_workflow_rows

router = guarded_router("workflows")


@router.get("/v1/workflows", response_model=WorkflowList, responses=documented_errors())
@allow(EVERYONE, for_others=True)
async def list_workflows(services: Wired, _caller: Caller) -> WorkflowList:
    """List the workflows that installed packages bring; `POST /v1/sessions/{session_id}/runs` starts them."""
    rows = await load_workflow_rows(services.pool)
    return WorkflowList(workflows=[_workflow(list(group)) for _, group in groupby(rows, itemgetter("name"))])


@router.get("/v1/workflows/{name}", response_model=Workflow, responses=documented_errors(404))
@allow(EVERYONE, for_others=True)
async def get_workflow(services: Wired, _caller: Caller, name: ResourceId) -> Workflow:
    """One workflow, with the JSON schemas of its input and output."""
    rows = await load_workflow_rows(services.pool, name)
    if not rows:
        raise no_such("workflow", name)
    return _workflow(rows)


def _workflow(rows: list[asyncpg.Record]) -> Workflow:
    newest = rows[0]
    return Workflow(
        name=newest["name"],
        version=newest["version"],
        description=newest["description"],
        task_queue=newest["task_queue"],
        instances=sum(row["alive"] for row in rows),
        last_seen=max(row["last_seen"] for row in rows),
        input_schema=json.loads(newest["input_schema"]),
        output_schema=json.loads(newest["output_schema"]),
    )
