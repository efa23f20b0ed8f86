"""Test kits without servers: for agents these functions, for workflows `flotilla.testing.workflows`."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flotilla.testing.kit import TaskRun, run_task
    from flotilla.testing.model import FakeModel

__all__ = ["FakeModel", "TaskRun", "run_task"]
_MODULES = {"FakeModel": "model", "TaskRun": "kit", "run_task": "kit"}


def __getattr__(name: str) -> object:
    """Import what is asked for: a package of workflows has not installed what agents need."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found
