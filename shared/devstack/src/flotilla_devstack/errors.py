"""Everything this package raises, split by what the caller should do.

DevstackError
├── MissingPrerequisiteError   install what `hint` says, then repeat
├── CorruptDownloadError       a jar is not the pinned one: clear the named folder, then repeat
├── PortTakenError             free the port, or ask for another
├── StateLockedError           another supervisor or test owns this state folder
├── StartFailedError           a process ended or did not get ready: read the log that it names
├── ToolFailedError            a helper program (initdb, mvn, psql) failed: read its output
├── DeadlineError              a condition did not come true in time
├── InterruptedStartError      a stop was asked for while starting
├── NotRunningError            there is no such stack, server or service
└── NotOwnedError              an attached stack is never stopped or harmed
"""


class DevstackError(Exception):
    """Root of this package's errors; the message says what happened, to what, and what to do."""


class MissingPrerequisiteError(DevstackError):
    """A program that the stack needs is not on this machine."""

    def __init__(self, name: str, detail: str, hint: str) -> None:
        super().__init__(f"{name}: {detail}. Install it with: {hint}")
        self.name = name
        self.hint = hint


class CorruptDownloadError(DevstackError):
    """A downloaded file is missing, surplus or differs from the shipped manifest."""


class PortTakenError(DevstackError):
    """A port that was asked for by number is in use by another process."""


class StateLockedError(DevstackError):
    """Another live process holds the lock of this state folder."""


class StartFailedError(DevstackError):
    """A server or service did not get ready; the message holds the end of its log."""


class ToolFailedError(DevstackError):
    """A helper program ended with an error; the message holds the end of its output."""


class DeadlineError(DevstackError):
    """A condition did not come true before its deadline."""


class InterruptedStartError(DevstackError):
    """The start was given up because a stop was asked for."""


class NotRunningError(DevstackError):
    """The stack, server or service in question is not running."""


class NotOwnedError(DevstackError):
    """The process belongs to a stack that was only attached to."""
