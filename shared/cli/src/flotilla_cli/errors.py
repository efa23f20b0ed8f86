"""What ends the command with something other than 0.

CliError            1  the request failed: refused, in conflict, or the other side is away
├── Misuse          2  the arguments can't be meant like this
└── NotFound        3  no such thing for this tenant
"""

from typing import ClassVar

DONE, FAILED, MISUSE, MISSING = 0, 1, 2, 3
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


class CliError(Exception):
    """Says what happened, to what, and in `hint` what to do about it."""

    exit_code: ClassVar[int] = FAILED

    def __init__(self, message: str, hint: str = "", code: str = "") -> None:
        """`code` is the problem document's, for programs; empty for what was found here."""
        super().__init__(message)
        self.hint = hint
        self.code = code


class Misuse(CliError):
    """The arguments can't be meant like this."""

    exit_code = MISUSE


class NotFound(CliError):
    """No such thing, or not this tenant's."""

    exit_code = MISSING
