"""Who calls, and what they may do."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Role: TypeAlias = Literal["viewer", "operator", "approver", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

EVERYONE: frozenset[Role] = frozenset(ROLES)
"""Anybody with credentials of the tenant."""
OPERATORS: frozenset[Role] = frozenset({"operator", "admin"})
ADMINS: frozenset[Role] = frozenset({"admin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The subject of a token: always the acting person, whatever a body says."""

    tenant_id: str
    subject: str
    roles: frozenset[Role]
    is_person: bool
    """Whether a human stands behind the token: only they may approve."""
    key_id: str | None = None
    """Of an API key; None for a JWT."""


def roles_among(names: object) -> frozenset[Role]:
    """The roles that `names` (a list of anything) holds; others are left out."""
    given = set(map(str, names)) if isinstance(names, list | tuple | set | frozenset) else set()
    return frozenset(role for role in ROLES if role in given)
