"""Workflows of installed packages."""

from datetime import datetime
from typing import Any

from gateway.schemas.common import Answer


class Workflow(Answer):
    """A workflow that workers serve, as the one that started last has it."""

    name: str
    version: str
    description: str
    task_queue: str
    instances: int
    """Workers that were seen in the last minute."""
    last_seen: datetime
    input_schema: dict[str, Any]
    """JSON schema of `input` in `POST /v1/sessions/{s}/runs`."""
    output_schema: dict[str, Any]
    """JSON schema of `output` of its runs."""


class WorkflowList(Answer):
    """All workflows, by name."""

    workflows: list[Workflow]
