"""Who may read and write a session."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from flotilla.contracts.identity import MAX_LENGTH, is_identity_text
from flotilla.eventstore.sessions import Visibility
from gateway.schemas.common import Answer, RequestBody

MAX_LISTED = 100
"""Names in one list."""


def _identity_text(text: str) -> str:
    if not is_identity_text(text):
        raise ValueError("it begins or ends with a space, or holds a character that can't be seen")
    return text


IdentityText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH), AfterValidator(_identity_text)]


class PersonName(RequestBody):
    """A person or a service, by who vouches for them and their subject there."""

    subject: IdentityText
    issuer: IdentityText | None = None
    """The OpenID provider, or `flotilla` for the names of API keys; by default the caller's own."""


class PartyName(RequestBody):
    """A person, or a group of the token's claims."""

    kind: Literal["user", "group"] = "user"
    name: IdentityText
    """The subject, or the group's name."""
    issuer: IdentityText | None = None
    """As for a person."""


Parties = Annotated[list[PartyName], Field(max_length=MAX_LISTED)]


class AccessChange(RequestBody):
    """What is to change; what is left out stays. `remove` comes first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"add_readers": [{"kind": "user", "name": "carol"}]}]})

    owner: PersonName | None = None
    """The new owner. The former one stays a writer."""
    visibility: Visibility | None = None
    add_readers: Parties = Field(default_factory=list)
    add_writers: Parties = Field(default_factory=list)
    remove: Parties = Field(default_factory=list)
    """From both lists."""


class Party(Answer):
    """A person or a group."""

    kind: Literal["user", "group"]
    issuer: str
    name: str


class Access(Answer):
    """Who may read and write a session."""

    session_id: str
    owner: Party | None
    """Null for a session of a former version that nobody was given."""
    visibility: Visibility
    """`tenant`: everybody in the tenant reads and writes."""
    readers: list[Party]
    writers: list[Party]
    """Read, too."""
    may_write: bool
    """Whether the caller may."""
    may_share: bool
    """Whether the caller may change all this."""
