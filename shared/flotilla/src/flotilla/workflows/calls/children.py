"""Names and messages of the activity behind `Run.start_child`."""

from dataclasses import dataclass

FIND_WORKFLOW = "find_workflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class FindWorkflow:
    """Asks who serves a workflow; returns `WorkflowServer`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowServer:
    """A workflow as its newest worker serves it."""

    version: str
    task_queue: str
