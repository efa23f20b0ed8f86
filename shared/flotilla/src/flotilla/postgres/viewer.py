"""For whom the transactions of a task act: row level security shows them what this person may see.

The gateway sets it once per request. Where nobody does, a service's own role decides: the gateway's sees nothing
of any session, all others work per task and see their tenant.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """A person, with their groups, as `flotilla.contracts.identity` writes them."""

    names: Sequence[str] = ()
    roles: Sequence[str] = ()
    sees_all: bool = False
    """Whether every session of the tenant is theirs to see and to operate."""
    deciding: str = ""
    """The approval on which a vote is being recorded: its session takes the vote's events."""
    person: str = ""
    """Whose limits count: an identity; "" where a service acts in its own name."""
    service: str = ""
    """The service whose limits count, too; "" where a person acts directly."""
    sessions: Sequence[str] | None = None
    """The only sessions that the transaction may see; None does not bind it to any."""

    def transaction_settings(self) -> dict[str, str]:
        """Return what row level security looks at."""
        return {
            "flotilla.viewer_names": _array(self.names),
            "flotilla.viewer_roles": _array(self.roles),
            "flotilla.sees_all": "on" if self.sees_all else "off",
            "flotilla.deciding": self.deciding,
            "flotilla.person": self.person,
            "flotilla.service": self.service,
            "flotilla.bound_sessions": "" if self.sessions is None else _array(self.sessions),
        }


def _array(names: Sequence[str]) -> str:
    """Return the names as PostgreSQL writes an array of text (its manual, "Array Input and Output Syntax")."""
    quoted = ('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names)
    return "{" + ",".join(quoted) + "}"


ITSELF = Viewer(sees_all=True)
"""For what a service does on its own account."""
_current: ContextVar[Viewer | None] = ContextVar("viewer", default=None)


def current_viewer() -> Viewer | None:
    """Return for whom the transactions of this task act."""
    return _current.get()


def set_viewer(viewer: Viewer) -> None:
    """Make all transactions of this task, from now on, act for `viewer`."""
    _current.set(viewer)


@contextmanager
def acting_as(viewer: Viewer) -> Iterator[None]:
    """Act for `viewer` within the block."""
    token = _current.set(viewer)
    try:
        yield
    finally:
        _current.reset(token)
