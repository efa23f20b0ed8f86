"""How a session's key gets from a process with the root key to one without.

The one that asks has a key pair that it registered in the database, and the secret of its task. The request proves the
secret without showing it. The answer is encrypted for the pair by HPKE (RFC 9180), and bound to the secret and to this
one request: nobody in between reads it, or answers in the place of the worker.
"""

import hmac
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import replace
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from flotilla.contracts.envelope import from_json, to_json
from flotilla.contracts.errors import Forbidden, Undecodable
from flotilla.contracts.session_keys import SessionKeyAsked, SessionKeyIssued
from flotilla.encryption.cipher import DataKey, bound_to
from flotilla.encryption.keyring import Cipher

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_REQUEST = "flotilla session key asked"
_ANSWER = "flotilla session key issued"


def with_proof(asked: SessionKeyAsked, secret: str) -> SessionKeyAsked:
    """The request with its proof."""
    return replace(asked, proof=_mac(_REQUEST, asked, sha256(secret.encode()).digest()).hex())


def check_proof(asked: SessionKeyAsked, secret_hash: bytes) -> None:
    """Raise Forbidden where the request's sender does not know the secret of this SHA-256."""
    if not hmac.compare_digest(_mac(_REQUEST, asked, secret_hash).hex().encode(), asked.proof.encode()):
        raise Forbidden(f"the request for the key of a session does not prove the secret of task {asked.task_id[:200]}")


def public_key_of(asked: SessionKeyAsked) -> bytes:
    """The public key that the request names.

    Raises:
        Undecodable: it names none.
    """
    try:
        key = b64decode(asked.public_key, validate=True)
        X25519PublicKey.from_public_bytes(key)
    except (NotBase64, ValueError) as error:
        raise Undecodable("the request's public_key is no X25519 key in base64") from error
    return key


def sealed_key(asked: SessionKeyAsked, secret_hash: bytes, cipher: Cipher | None) -> bytes:
    """The answer: the session's key, encrypted for who asked.

    Raises:
        Undecodable: nothing can be encrypted for the request's public key.
    """
    key = cipher.key.exported() if cipher is not None and cipher.key is not None else None
    issued = SessionKeyIssued(
        person_key_id=cipher.person_key_id if cipher is not None else None, key=b64encode(key).decode() if key else None
    )
    public_key = X25519PublicKey.from_public_bytes(public_key_of(asked))
    try:
        return _SUITE.encrypt(to_json(issued), public_key, info=_mac(_ANSWER, asked, secret_hash))
    except ValueError as error:  # a point of low order
        raise Undecodable("the request's public_key is one that anybody could open") from error


def opened_key(asked: SessionKeyAsked, secret: str, private_key: X25519PrivateKey, answer: bytes) -> Cipher | None:
    """The cipher in an answer to this request; None for a session without a key.

    Raises:
        Undecodable: it is no answer to this request, or not by who knows the task's secret.
    """
    try:
        found = _SUITE.decrypt(answer, private_key, info=_mac(_ANSWER, asked, sha256(secret.encode()).digest()))
    except (InvalidTag, ValueError) as error:
        raise Undecodable("the answer holds no key of a session for this request") from error
    issued = from_json(found, SessionKeyIssued)
    if issued.person_key_id is None:
        return None
    if issued.key is None:
        return Cipher(issued.person_key_id, None)
    return Cipher(issued.person_key_id, DataKey(b64decode(issued.key), asked.tenant_id, asked.session_id))


def _mac(purpose: str, asked: SessionKeyAsked, secret_hash: bytes) -> bytes:
    said = bound_to(purpose, to_json(replace(asked, proof="")).decode())
    return hmac.digest(secret_hash, said, "sha256")
