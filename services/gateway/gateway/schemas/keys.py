"""API keys."""

import unicodedata
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints

from gateway.auth.principal import Role
from gateway.schemas.access import IdentityText
from gateway.schemas.common import Answer, RequestBody


def composed(name: str) -> str:
    """Refuse a name in another normalization form than C."""
    if not unicodedata.is_normalized("NFC", name):
        raise ValueError("send it in Unicode's normalization form C: two spellings would be two people")
    return name


class KeyBody(RequestBody):
    """A new API key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "carol", "roles": ["operator", "approver"], "person": True}]}
    )

    name: Annotated[IdentityText, StringConstraints(max_length=200), AfterValidator(composed)]
    """Whose key it is: the subject of everything that is done with it. All of it can be seen, and is spelled in
    Unicode's normalization form C: no two names look the same because of what is hidden in one."""
    roles: Annotated[list[Role], Field(min_length=1, max_length=4)]
    expires_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """With its offset; by default it does not expire."""
    person: bool = False
    """Notes that the name is a person's. Only keys of people can approve."""
    may_act_for_others: bool = False
    """Lets a service name, in the header `Flotilla-On-Behalf-Of`, the person for whom it acts."""
    people_of: IdentityText | None = None
    """Who vouches for these people: an OpenID provider, `flotilla` for the names of API keys, or any other name for
    users that only the service knows. By default the provider set up here, else `flotilla`."""

    may_append_as: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")] | None = None
    """Lets a service append events to sessions, as `/services/` and this name."""


class Key(Answer):
    """An API key, without its secret."""

    key_id: str
    hint: str | None
    """How the key begins; null for one that was made before hints were kept, or chosen by a person."""
    name: str
    roles: list[Role]
    is_person: bool
    acts_for: str | None
    """Who vouches for the people on whose behalf the key may act; null for a key that may not."""
    appends_as: str | None
    """The name under which the key may append events to sessions; null for a key that may not."""
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The secret: shown this once, stored only as a hash."""


class KeyList(Answer):
    """A page of keys, newest first."""

    keys: list[Key]
    next_cursor: str | None
