"""What an author may say about a tool, beside its name, its parameters and its description."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NewType, TypeAlias, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = "__flotilla_tool__"

IdempotencyKey = NewType("IdempotencyKey", str)
"""A parameter of this type gets the key of the call, 32 hexadecimal digits: the same whenever this call is made again,
and different from that of any other call. It is not among the arguments that a model or a caller can set."""

OnUnknown: TypeAlias = Literal["again", "fail", "ask"]
"""What happens to a call that was begun and gave no answer: its process died, or it raised anything but a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How a tool may be called again."""

    repeatable: bool = False
    """It only reads, so a later run of the task calls it again; nothing is stored."""
    on_unknown: OnUnknown | None = None
    """None: `ask` for a gated tool, `again` for any other."""
    searches: bool = False
    """It reads the fleet's own documents and nothing else: a replay may call it, where it asks for the live index."""


def with_tool_options(function: F, options: ToolOptions) -> F:
    """Mark `function`, and give it back."""
    setattr(function, _OPTIONS, options)
    return function


def tool_options(function: Callable[..., Any]) -> ToolOptions:
    """What `with_tool_options` said."""
    options: ToolOptions = getattr(function, _OPTIONS, ToolOptions())
    return options


def repeatable(function: F) -> F:
    """Mark a tool that only reads: a later run of the task calls it again. Decorator."""
    return with_tool_options(function, ToolOptions(repeatable=True))
