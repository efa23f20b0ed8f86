"""The test kit for agent authors: one agent, in process, no servers."""

from flotilla.testing.kit import TaskRun, run_task
from flotilla.testing.model import FakeModel

__all__ = ["FakeModel", "TaskRun", "run_task"]
