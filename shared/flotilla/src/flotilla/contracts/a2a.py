"""A2A 1.0: a run as its protocol's task. The gateway serves it, the worker notifies in its words."""

from collections.abc import Mapping

from flotilla.contracts.requests import RunStatus

TASK_STATES: Mapping[RunStatus, str] = {
    "queued": "TASK_STATE_SUBMITTED",
    "pending": "TASK_STATE_SUBMITTED",
    "running": "TASK_STATE_WORKING",
    "interrupted": "TASK_STATE_WORKING",
    "success": "TASK_STATE_COMPLETED",
    "error": "TASK_STATE_FAILED",
    "timeout": "TASK_STATE_FAILED",
    "cancelled": "TASK_STATE_CANCELED",
}
"""By the run's status alone. What an interrupted run waits for is a state of its own: `task_state`."""
AUTH_REQUIRED = "TASK_STATE_AUTH_REQUIRED"
INPUT_REQUIRED = "TASK_STATE_INPUT_REQUIRED"
MAX_DATA_DEPTH = 80
"""Of protobuf messages in data: parsers, also those of clients, refuse more than 100 with those around it."""
DEFAULT_SECRET = "a2a"  # noqa: S105 - the name of a secret
"""Signs what receivers get whose configuration names no other secret."""
TOKEN_HEADER = "X-A2A-Notification-Token"  # noqa: S105 - the name of a header


def task_state(status: RunStatus, *, decisions: bool, questions: bool) -> str:
    """Return the state of a run that waits for `decisions` of people (specification, 7.6), or answers to `questions`.

    Decisions come first: a message could be meant as a vote. An interrupted run that waits for neither goes on soon.
    """
    if status == "interrupted" and decisions:
        return AUTH_REQUIRED
    if status == "interrupted" and questions:
        return INPUT_REQUIRED
    return TASK_STATES[status]
