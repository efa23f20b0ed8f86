"""What lies under an error that frameworks have wrapped: in groups, and in the errors of OpenAI's client."""

from collections.abc import Iterator
from typing import Any

from flotilla.contracts.errors import FlotillaError

CAUSE_EXTENSION = "flotilla_error"
"""Among the extensions of a response that `ctx.openai()` gave: the error that it describes."""


class TaskCancelled(Exception):
    """The caller no longer wants the task."""


def unwrap_framework_error(error: BaseException) -> BaseException:
    """Return the error that `ctx.openai()` gave, or TaskCancelled, that `error` wraps; else the first error of a group,
    or `error` itself: an author's own error stays what it is, whatever it was raised because of."""
    leaves = list(_leaves_of_exception_groups(error))
    for one in _with_causes(leaves):
        found = one if isinstance(one, TaskCancelled) else _error_carried_by_response(one)
        if found is not None:
            return found
    return leaves[0]


def _leaves_of_exception_groups(error: BaseException) -> Iterator[BaseException]:
    open_groups = [error]
    while open_groups:
        one = open_groups.pop()
        if isinstance(one, BaseExceptionGroup):
            open_groups.extend(reversed(one.exceptions))
        else:
            yield one


def _with_causes(errors: list[BaseException]) -> Iterator[BaseException]:
    """The errors, and those because of which they were raised."""
    seen: set[int] = set()
    waiting = list(reversed(errors))
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting.extend(known for known in (one.__context__, one.__cause__) if known is not None)


def _error_carried_by_response(error: BaseException) -> FlotillaError | None:
    response: Any = getattr(error, "response", None)
    extensions = getattr(response, "extensions", None)
    cause = extensions.get(CAUSE_EXTENSION) if isinstance(extensions, dict) else None
    return cause if isinstance(cause, FlotillaError) else None
