"""People who sign votes: an SSH key, an Ed25519 key or a passkey each, and the roots that vouch for them."""

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from flotilla.audit import admin_log
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.votes import (
    SSH_NAMESPACE,
    Signature,
    Signed,
    SignedVote,
    SignerApproval,
    SignerKind,
    SignerStatement,
    VoteStatement,
)
from flotilla.postgres import Connection
from flotilla.votes.keys import parse_signer_key, to_ssh_key_line
from flotilla.votes.relying_party import RelyingParty
from flotilla.votes.roots import VoteRoot, VoteRoots
from flotilla.votes.statements import canonical_statement_text, format_statement_time, statement_digest

RP_ID, ORIGIN = "flotilla.example.com", "https://flotilla.example.com"
PASSKEYS = RelyingParty(RP_ID, (ORIGIN,))
TENANT = "acme"


def now_text(**ahead: float) -> str:
    return format_statement_time(datetime.now(UTC) + timedelta(**ahead))


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@dataclass
class Ed25519Key:
    """A raw key, as programs use it."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    kind: SignerKind = "ed25519"
    credential_id: str = ""

    @property
    def public_key(self) -> str:
        return to_ssh_key_line(self.private.public_key())

    def sign(self, statement: str) -> Signed:
        value = base64.b64encode(self.private.sign(statement.encode())).decode()
        return Signed(statement=statement, signature=Signature(value=value))


@dataclass
class SshKey:
    """An OpenSSH key; it signs as `ssh-keygen -Y sign` does (openssh-portable, PROTOCOL.sshsig)."""

    private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    kind: SignerKind = "ssh"
    credential_id: str = ""

    @classmethod
    def ecdsa(cls) -> "SshKey":
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def public_key(self) -> str:
        return to_ssh_key_line(self.private.public_key())

    def sign(self, statement: str, namespace: str = SSH_NAMESPACE) -> Signed:
        head = _ssh_string(namespace.encode()) + _ssh_string(b"") + _ssh_string(b"sha512")
        blob = self._signature(b"SSHSIG" + head + _ssh_string(hashlib.sha512(statement.encode()).digest()))
        public = base64.b64decode(self.public_key.split()[1])
        whole = b"SSHSIG" + (1).to_bytes(4, "big") + _ssh_string(public) + head + _ssh_string(blob)
        lines = [base64.b64encode(whole).decode()[at : at + 70] for at in range(0, len(whole) * 4 // 3 + 3, 70)]
        value = "\n".join(["-----BEGIN SSH SIGNATURE-----", *filter(None, lines), "-----END SSH SIGNATURE-----", ""])
        return Signed(statement=statement, signature=Signature(value=value))

    def _signature(self, signed: bytes) -> bytes:
        if isinstance(self.private, Ed25519PrivateKey):
            return _ssh_string(b"ssh-ed25519") + _ssh_string(self.private.sign(signed))
        numbers = decode_dss_signature(self.private.sign(signed, ec.ECDSA(SHA256())))
        value = b"".join(_ssh_string(one.to_bytes(one.bit_length() // 8 + 1, "big")) for one in numbers)
        return _ssh_string(b"ecdsa-sha2-nistp256") + _ssh_string(value)


def _ssh_string(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


@dataclass
class Passkey:
    """An authenticator in software, as bytes on the wire."""

    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    count: int = 0
    kind: SignerKind = "passkey"
    credential_id: str = field(default_factory=lambda: b64url(b"credential"))
    rp_id: str = RP_ID
    origin: str = ORIGIN
    verifies_user: bool = True

    @property
    def public_key(self) -> str:
        numbers = self.private.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        return f"cose {base64.b64encode(cbor2.dumps(cose)).decode()}"

    def sign(self, statement: str, **client: Any) -> Signed:
        self.count += 1
        flags = 0b1 | (0b100 if self.verifies_user else 0)
        data = hashlib.sha256(self.rp_id.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")
        challenge = b64url(hashlib.sha256(statement.encode()).digest())
        asked = {"type": "webauthn.get", "challenge": challenge, "origin": self.origin, "crossOrigin": False, **client}
        client_data = json.dumps(asked).encode()
        value = self.private.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(SHA256()))
        signature = Signature(value=b64url(value), client_data=b64url(client_data), authenticator_data=b64url(data))
        return Signed(statement=statement, signature=signature)


Key = Ed25519Key | SshKey | Passkey


def enrolled(key: Key, subject: str, tenant: str = TENANT, **changes: Any) -> Signed:
    """The person's statement about their key, signed with it."""
    statement = SignerStatement(
        tenant=tenant,
        subject=subject,
        kind=key.kind,
        public_key=key.public_key,
        credential_id=key.credential_id,
        name="a key",
        time=now_text(),
    )
    return key.sign(canonical_statement_text(replace(statement, **changes)))


def approved(
    signer: Signed, subject: str, root: Key, by: str = "grace", tenant: str = TENANT, **changes: Any
) -> Signed:
    """An administrator's approval of a key."""
    statement = SignerApproval(
        tenant=tenant,
        subject=subject,
        statement=statement_digest(signer.statement),
        roles=["approver"],
        approved_by=by,
        expires_at=now_text(days=300),
        time=now_text(),
    )
    return root.sign(canonical_statement_text(replace(statement, **changes)))


def statement_of(subject: str, **fields: Any) -> VoteStatement:
    """A vote; fields are those that matter to the test."""
    given = {
        "tenant": TENANT,
        "approval_id": "a1",
        "content_hash": "0" * 64,
        "decision": "approve",
        "policy_version": "v1",
        "requested_by": "alice",
        "on_behalf_of": "",
        "time": now_text(),
    }
    return VoteStatement(subject=subject, **{**given, **fields})


def roots_of(*roots: tuple[str, Key], tenant: str = TENANT, revoked: tuple[str, ...] = ()) -> VoteRoots:
    """Roots as a worker's file has them."""
    keys = [
        VoteRoot(tenant, name, parse_signer_key(key.kind, key.public_key, key.credential_id)) for name, key in roots
    ]
    return VoteRoots(tuple(keys), PASSKEYS, frozenset(revoked))


@dataclass
class Voter:
    """A person with an enrolled key."""

    subject: str
    key: Key
    signer: Signed
    approval: Signed

    @classmethod
    def made(cls, subject: str, root: Key, key: Key | None = None, tenant: str = TENANT, **changes: Any) -> "Voter":
        key = key or Ed25519Key()
        signer = enrolled(key, subject, tenant)
        return cls(subject, key, signer, approved(signer, subject, root, tenant=tenant, **changes))

    @property
    def fingerprint(self) -> str:
        return parse_signer_key(self.key.kind, self.key.public_key, self.key.credential_id).fingerprint

    def vote(self, **fields: Any) -> SignedVote:
        signed = self.key.sign(canonical_statement_text(statement_of(self.subject, **fields)))
        return SignedVote(vote=signed, signer=self.signer, approval=self.approval)


async def note_signers(connection: Connection, tenant_id: str, change: str, *voters: Voter) -> None:
    """Write what happened to these keys into the tenant's audit session, as the gateway does."""
    changes: list[tuple[str, JsonObject]] = [
        (change, {"subject": voter.subject, "fingerprint": voter.fingerprint}) for voter in voters
    ]
    await admin_log.record_admin_changes(connection, tenant_id, "/gateway", *changes)
