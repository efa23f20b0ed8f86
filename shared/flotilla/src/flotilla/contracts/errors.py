"""The error tree, split by what the caller does about it.

FlotillaError
├── RetryLater          the other side is away or busy; the same call may succeed later
│   └── Parked          a session waits for an operator's decision about its history
├── DeadLetter          this message can never be handled; keep it for a person
│   ├── Undecodable     not a CloudEvent, or its data does not fit its type
│   ├── UnknownType     a type or version that this code does not know
│   ├── Oversize        larger than the channel allows
│   └── Untrusted       not from whom it must be: nothing in it counts
├── Conflict            the caller's view is out of date
│   ├── SequenceConflict    `expected_seq` is not the session's head
│   └── RunInProgress       the session has an active run
├── Refused             the request is wrong, or its maker may not make it
│   ├── NotFound        no such thing for this tenant
│   ├── Forbidden       authenticated, but not allowed
│   │   └── TenantSuspended     operators of the fleet have stopped the tenant
│   └── Invalid         a value is outside what the contract allows
└── ConfigurationError  the process can't run like this; exit and say what to set
"""


class FlotillaError(Exception):
    """Root of every error that Flotilla raises on purpose."""


class RetryLater(FlotillaError):
    """The other side is away or busy; the same call may succeed later."""


class Parked(RetryLater):
    """A session waits for an operator's decision about its history; the message names the verb to run."""


class DeadLetter(FlotillaError):
    """The message can never be handled as it is; keep it for a person."""


class Undecodable(DeadLetter):
    """The bytes are not a CloudEvent, or its data does not fit its type."""


class UnknownType(DeadLetter):
    """The event's type or version is unknown to this code."""


class Oversize(DeadLetter):
    """The message is larger than its channel allows."""


class Untrusted(DeadLetter):
    """The message is not from whom it must be. Nothing that it names may change because of it."""


class Conflict(FlotillaError):
    """The caller's view is out of date; read again and decide."""


class SessionErased(Conflict):
    """The person of the session was erased: nothing of it can be read, and nothing new begins in it."""

    code = "session_erased"


class SessionArchived(Conflict):
    """The events of the session are in an archive: it can be read, and goes on, once they are restored."""

    code = "session_archived"


class SequenceConflict(Conflict):
    """`expected_seq` is not the session's head."""

    def __init__(self, session_id: str, expected_seq: int, head_seq: int) -> None:
        super().__init__(
            f"session {session_id} is at seq {head_seq}, not {expected_seq}: read its events and decide again"
        )
        self.session_id = session_id
        self.expected_seq = expected_seq
        self.head_seq = head_seq


class RunInProgress(Conflict):
    """The session has an active run; it can have one at a time."""


class Refused(FlotillaError):
    """The request is wrong, or its maker may not make it; repeating it changes nothing."""


class UnreadablePayload(Refused):
    """What Temporal holds was changed, moved, or encrypted with a key that this process has not."""


class NotFound(Refused):
    """No such thing, or not this tenant's."""


_LISTS = {
    "dead letter": "dead-letters",
    "erasure": "privacy/erasures",
    "export": "privacy/requests",
    "privacy request": "privacy/requests",
    "audit request": "audit/requests",
}


def no_such(kind: str, name: str) -> NotFound:
    """The error for a `kind`, such as `session` or `dead letter`, that the tenant has not or the caller may not see: it
    names the route that lists the others."""
    return NotFound(f"no {kind} {name}: GET /v1/{_LISTS.get(kind, f'{kind}s')} lists those that you may see")


class Forbidden(Refused):
    """The caller is known but may not do this."""


class TenantSuspended(Forbidden):
    """Operators of the fleet have stopped the tenant: its requests are refused, its work waits."""

    code = "tenant_suspended"


class Invalid(Refused):
    """A value is outside what the contract allows."""


class ConfigurationError(FlotillaError):
    """The process can't run with these settings; the message says what to set."""
