"""Who calls, and what they may do."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias, get_args

from flotilla.contracts.identity import LOCAL_ISSUER, group_name, user_name
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import join_id_parts
from flotilla.postgres import Viewer

Role: TypeAlias = Literal["viewer", "operator", "approver", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
Scope: TypeAlias = Literal["read", "run"]
"""Of a browser token: read and follow; start and cancel runs, and judge their answers."""
SCOPES: dict[Scope, Role] = {"read": "viewer", "run": "operator"}
"""The role that each scope is worth, and takes to hand out."""

EVERYONE: frozenset[Role] = frozenset(ROLES)
"""Anybody with credentials of the tenant."""
OPERATORS: frozenset[Role] = frozenset({"operator", "admin"})
ADMINS: frozenset[Role] = frozenset({"admin"})
FOR_OTHERS: frozenset[Role] = frozenset({"viewer", "operator"})
"""What of a service's roles counts while it acts on behalf of a person: nobody approves or administers that way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserTokenGrant:
    """What a browser token is worth: no more than this of what its maker may."""

    token_id: str
    sessions: frozenset[str]
    scopes: frozenset[Scope]
    workflows: frozenset[str]
    """What it may start; `rag` are questions."""


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
    acts_for: str | None = None
    """The issuer of the people for whom the key may act; None for a key without that right."""
    acted_by: str | None = None
    """The service that acts on behalf of this person; None where they act themselves."""
    grant: BrowserTokenGrant | None = None
    """What bounds a browser token; None for all other credentials."""
    expires_at: datetime | None = None
    """When the credentials end; None for a key that lasts until it is revoked."""

    @property
    def name(self) -> str:
        """Who it is, as sessions name their owners."""
        return user_name(self.issuer, self.subject)

    @property
    def limited_person(self) -> str | None:
        """The person whose limits count; None for a service in its own name."""
        return self.name if self.is_person or self.acted_by else None

    @property
    def limited_service(self) -> str | None:
        """The service whose limits count; None for a person who acts directly."""
        return self.acted_by or (None if self.is_person else self.subject)

    @property
    def tenant_name_and_service(self) -> tuple[str, str, str | None]:
        """Who it is, in which tenant, and through which service."""
        return self.tenant_id, self.name, self.acted_by

    @property
    def by(self) -> JsonObject:
        """Who acts, as events name them: the service, too, where one acts for the person."""
        return {"by": self.subject, **self.acted_by_attribute}

    @property
    def acted_by_attribute(self) -> JsonObject:
        """The service that acts for the person, as events name it; nothing where they act themselves."""
        return {"acted_by": self.acted_by} if self.acted_by else {}

    @property
    def idempotency_scope(self) -> str:
        """Whose idempotency keys the caller's are: a service's, for each person, are not those of the person."""
        return self.subject if self.acted_by is None else join_id_parts(self.acted_by, self.name)

    def on_behalf_of(self, subject: str, issuer: str) -> "Principal":
        """Return the person for whom this service acts: no more than their own sessions, with no role that the key
        lacks. Groups are the provider's to say, and it is not asked here: there are none."""
        return replace(
            self,
            subject=subject,
            issuer=issuer,
            roles=self.roles & FOR_OTHERS,
            is_person=False,
            groups=frozenset(),
            acts_for=None,
            acted_by=self.subject,
        )

    def database_viewer(self, operators: Collection[str]) -> Viewer:
        """Return what transactions may see for it; `operators`: the roles, and groups as `group:…`, that see all."""
        if self.grant is not None:
            return replace(self._acting(), sessions=sorted(self.grant.sessions))
        if self.acted_by is not None:
            return self._acting()
        groups = {f"group:{group}" for group in self.groups}
        return replace(
            self._acting(), roles=sorted(self.roles), sees_all=not (self.roles | groups).isdisjoint(operators)
        )

    def _acting(self) -> Viewer:
        """Return who acts, with no role that would show more than their sessions."""
        return Viewer(
            names=(self.name, *(group_name(self.issuer, group) for group in sorted(self.groups))),
            person=self.limited_person or "",
            service=self.limited_service or "",
        )


def known_roles(names: object) -> frozenset[Role]:
    """The roles that `names` (a list of anything) holds; others are left out."""
    given = set(map(str, names)) if isinstance(names, list | tuple | set | frozenset) else set()
    return frozenset(role for role in ROLES if role in given)
