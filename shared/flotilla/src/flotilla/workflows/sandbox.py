"""The sandbox that workflows run in: what is shared with it, and not loaded again for each run."""

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

SANDBOX_SHARED_MODULES = (
    "flotilla",
    "msgspec",
    "uuid_utils",
    "structlog",
    "opentelemetry",
    # For the types of workflows.
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
)
"""Modules that workflows may import as they are: none of them decides anything by clock, chance or I/O there."""


def make_workflow_runner(*modules: str) -> SandboxedWorkflowRunner:
    """Return what runs workflows; `modules` are shared, too."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules(*SANDBOX_SHARED_MODULES, *modules)
    return SandboxedWorkflowRunner(restrictions=restrictions)
