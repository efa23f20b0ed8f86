"""Names and messages of the activities that keep pipelines: all that a workflow knows of them."""

from dataclasses import dataclass, field

from flotilla.contracts.requests import RunStatus
from flotilla.contracts.session_events import ErrorRaised

BEGIN_PIPELINE = "begin_pipeline"
FINISH_PIPELINE = "finish_pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunPipeline:
    """What a pipeline starts from."""

    limits_s: dict[str, float] = field(default_factory=dict)
    """How long a task of each registered agent may take, as the agent says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineReference:
    """Which pipeline."""

    tenant_id: str
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedPipeline:
    """How a pipeline ended."""

    key: PipelineReference
    status: RunStatus
    error: ErrorRaised | None = None
    """Why there is no result; None from a worker of before this was kept."""
