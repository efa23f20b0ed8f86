"""Who calls, and what they may do."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from flotilla.contracts.identity import LOCAL_ISSUER, group_name, user_name
from flotilla.postgres import Viewer

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
    """Whether the token is a human's: only they may approve."""
    key_id: str | None = None
    """Of an API key; None for a JWT."""
    issuer: str = LOCAL_ISSUER
    """Who vouches for the subject: the OpenID provider, or Flotilla for API keys."""
    groups: frozenset[str] = frozenset()
    """Of the token's claims."""

    @property
    def name(self) -> str:
        """Who it is, as sessions name their owners."""
        return user_name(self.issuer, self.subject)

    def viewer(self, operators: Collection[str]) -> Viewer:
        """Return what transactions may see for it; `operators`: the roles, and groups as `group:…`, that see all."""
        groups = {f"group:{group}" for group in self.groups}
        return Viewer(
            names=(self.name, *(group_name(self.issuer, group) for group in sorted(self.groups))),
            roles=sorted(self.roles),
            sees_all=not (self.roles | groups).isdisjoint(operators),
        )


def roles_among(names: object) -> frozenset[Role]:
    """The roles that `names` (a list of anything) holds; others are left out."""
    given = set(map(str, names)) if isinstance(names, list | tuple | set | frozenset) else set()
    return frozenset(role for role in ROLES if role in given)
