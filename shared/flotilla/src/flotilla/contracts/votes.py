"""Signed votes: what people sign, and what a vote carries so that anybody can check it later.

A statement is one JSON object without spaces, its members in the order of the class below, in UTF-8. What is signed is
exactly that text, so nobody has to write it a second time in the same way.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

SignerKind: TypeAlias = Literal["passkey", "ssh", "ed25519"]
"""How a key signs: WebAuthn assertions, `ssh-keygen -Y sign`, or Ed25519 (RFC 8032) over the statement's bytes."""

VOTE_TYPE: Literal["flotilla.vote.v1"] = "flotilla.vote.v1"
SIGNER_TYPE: Literal["flotilla.signer.v1"] = "flotilla.signer.v1"
SIGNER_APPROVAL_TYPE: Literal["flotilla.signer-approval.v1"] = "flotilla.signer-approval.v1"
VOTE_RECEIPT_TYPE: Literal["flotilla.vote-receipt.v1"] = "flotilla.vote-receipt.v1"
SSH_NAMESPACE = "flotilla-vote"
"""`ssh-keygen -Y sign -n flotilla-vote`: a signature for another purpose never counts here."""

Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Time: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z\Z")
]
"""RFC 3339 in UTC: `2030-01-31T12:00:00Z`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteStatement:
    """A person decides about one content under one policy."""

    type: Literal["flotilla.vote.v1"] = VOTE_TYPE
    tenant: Text
    approval_id: Text
    content_hash: Digest
    decision: Literal["approve", "reject"]
    policy_version: Text
    """The version of the policy in force when the person signs; it holds the beginning of the file's SHA-256."""
    subject: Text
    requested_by: Text
    on_behalf_of: Annotated[str, msgspec.Meta(max_length=512)]
    """Empty where nobody is named."""
    time: Time


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerStatement:
    """A person states that a public key is theirs; signed with that key."""

    type: Literal["flotilla.signer.v1"] = SIGNER_TYPE
    tenant: Text
    subject: Text
    kind: SignerKind
    public_key: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    """`ssh-ed25519 AAAA...` or `ecdsa-sha2-nistp256 AAAA...`; of a passkey `cose` and the base64 of its COSE key."""
    credential_id: Annotated[str, msgspec.Meta(max_length=1400)]
    """Of a passkey, base64url; else empty."""
    name: Text
    """What the person calls the key."""
    time: Time


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerApproval:
    """An administrator states that a key belongs to that person; signed with a key that the operators configured."""

    type: Literal["flotilla.signer-approval.v1"] = SIGNER_APPROVAL_TYPE
    tenant: Text
    subject: Text
    statement: Digest
    """SHA-256 of the person's `SignerStatement`."""
    roles: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=16)]
    """With which the person votes."""
    approved_by: Text
    expires_at: Time
    time: Time


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature over a statement's bytes."""

    value: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
    """`ssh`: the armored text of `ssh-keygen`; `ed25519`: base64; `passkey`: base64url."""
    client_data: Annotated[str, msgspec.Meta(max_length=8192)] = ""
    """Of a passkey, base64url of `clientDataJSON`; its challenge is the statement's SHA-256."""
    authenticator_data: Annotated[str, msgspec.Meta(max_length=8192)] = ""
    """Of a passkey, base64url."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A statement and its signature."""

    statement: Annotated[str, msgspec.Meta(min_length=2, max_length=8192)]
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVote:
    """A vote that proves itself to anyone who knows the roots: the vote, whose key it is, and who approved that key."""

    vote: Signed
    signer: Signed
    """A `SignerStatement`."""
    approval: Signed
    """A `SignerApproval`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteReceiptStatement:
    """The workflow worker states when it checked a vote: how long the tenant's audit session, `flotilla:audit`, was."""

    type: Literal["flotilla.vote-receipt.v1"] = VOTE_RECEIPT_TYPE
    tenant: Text
    approval_id: Text
    vote: Digest
    """SHA-256 of the `VoteStatement`."""
    signers_seq: Annotated[int, msgspec.Meta(ge=0)]
    """Its newest event. A revocation behind it does not concern this vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteReceipt:
    """A `VoteReceiptStatement`, signed with the worker's key of tickets: Ed25519 over its text, in base64."""

    statement: Annotated[str, msgspec.Meta(min_length=2, max_length=8192)]
    key_id: Annotated[str, msgspec.Meta(max_length=64)]
    signature: Annotated[str, msgspec.Meta(max_length=256)]
