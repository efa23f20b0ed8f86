"""Durable workflows of one's own: see docs/workflows.md. Deterministic code only: it runs in Temporal's sandbox."""

from flotilla.workflows.calls.custom import Usage
from flotilla.workflows.declaration import flotilla_workflow
from flotilla.workflows.run import Run
from flotilla.workflows.steps import ActionRefused, AgentResult, NotAnswered, StepFailed

__all__ = ["ActionRefused", "AgentResult", "NotAnswered", "Run", "StepFailed", "Usage", "flotilla_workflow"]
