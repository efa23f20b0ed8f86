"""Errors on their way between the SDK and the worker: one form, in both directions."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from flotilla.agent.execution import NOT_RETRYABLE_ERRORS
from flotilla.agent.gates import ApprovalPending
from flotilla.agent.recording import storable_exception_message
from flotilla.agent.wrapped_errors import TaskCancelled
from flotilla.contracts.errors import Refused

ErrorKind: TypeAlias = Literal["failed", "pending", "cancelled"]
"""`pending` and `cancelled` end the run of the task: whatever the function does next does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFailure:
    """What went wrong, as JSON."""

    type: str
    message: str
    retryable: bool = True
    """False: nothing was done, and the same call would fail again."""
    retry_after_s: float | None = None
    kind: ErrorKind = "failed"

    def to_exception(self) -> Exception:
        """Return it as an exception whose class has its name."""
        if self.kind == "cancelled":
            return TaskCancelled(self.message)
        name = self.type if self.type.isidentifier() else "Error"
        base: type[Exception] = Exception if self.retryable else Refused
        error: Exception = type(name, (base,), {"retry_after_s": self.retry_after_s})(self.message)
        return error


def failure_from_exception(error: BaseException) -> RemoteFailure:
    """Return `error` as the worker gets it."""
    kind: ErrorKind = "failed"
    if isinstance(error, ApprovalPending):
        kind = "pending"
    elif isinstance(error, TaskCancelled):
        kind = "cancelled"
    return RemoteFailure(
        type=type(error).__name__,
        message=storable_exception_message(error) or type(error).__name__,
        retryable=not isinstance(error, NOT_RETRYABLE_ERRORS),
        retry_after_s=getattr(error, "retry_after_s", None),
        kind=kind,
    )
