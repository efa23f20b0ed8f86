"""Keys with which people sign their votes."""

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from flotilla.contracts.votes import SignerKind
from gateway.schemas.common import Answer, Id, RequestBody

StatementText = Annotated[str, StringConstraints(min_length=2, max_length=8192)]
Part = Annotated[str, StringConstraints(max_length=8192)]


class SignatureBody(RequestBody):
    """A signature over a statement's text in UTF-8."""

    value: Annotated[str, StringConstraints(min_length=1, max_length=8192)]
    """`ssh`: the armored text of `ssh-keygen -Y sign -n flotilla-vote`; `ed25519`: base64; `passkey`: base64url."""
    client_data: Part = ""
    """Of a passkey: base64url of `clientDataJSON`, whose challenge is the SHA-256 of the statement."""
    authenticator_data: Part = ""
    """Of a passkey: base64url."""


class SignedBody(RequestBody):
    """A statement of one's own, and its signature (docs/signed-votes.md has the statements)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"statement": "{}", "signature": {"value": "c2lnbmVk"}}]})

    statement: StatementText
    signature: SignatureBody


class VoteSignature(SignedBody):
    """A vote's own signature."""

    signer_id: Id
    """The key that signed."""


class Signature(Answer):
    """A signature as it was sent."""

    value: str
    client_data: str
    authenticator_data: str


class Signed(Answer):
    """A statement and its signature."""

    statement: str
    signature: Signature


class Signer(Answer):
    """A key with which a person signs votes."""

    signer_id: str
    subject: str
    kind: SignerKind
    name: str
    fingerprint: str
    """`SHA256:...`, as `ssh-keygen -l` shows it. Compare it with the person's, by another way, before approving."""
    public_key: str
    credential_id: str
    status: str = Field(examples=["pending", "approved", "expired", "revoked"])
    roles: list[str]
    """With which the person votes; empty until an administrator approved the key."""
    signed: Signed
    """What the person signed; an approval names the SHA-256 of its statement."""
    approved_by: str | None
    approved_at: datetime | None
    expires_at: datetime | None
    revoked_by: str | None
    revoked_at: datetime | None
    created_at: datetime


class Passkeys(Answer):
    """Where passkeys can be used."""

    rp_id: str
    origins: list[str]


class SignerList(Answer):
    """A page of signers, newest first."""

    signers: list[Signer]
    next_cursor: str | None
    passkeys: Passkeys | None
    """Null where no passkey counts."""
