"""Passkeys: WebAuthn assertions whose challenge is the hash of a statement (W3C Web Authentication Level 3, 7.2)."""

import base64
import hashlib
from typing import Any

from webauthn import verify_authentication_response
from webauthn.helpers import base64url_to_bytes, decode_credential_public_key, decoded_public_key_to_cryptography
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.parse_client_data_json import parse_client_data_json

from flotilla.contracts.votes import Signature
from flotilla.votes.errors import Unproven
from flotilla.votes.relying_party import RelyingParty

PASSKEY_ALGORITHMS = (
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
)
"""What authenticators are asked for, in this order."""
MAX_CLIENT_DATA_BYTES = 4096
MAX_AUTHENTICATOR_DATA_BYTES = 1024
# What the library lets through of bytes that are nothing it knows.
_MALFORMED_PASSKEY_ERRORS = (
    WebAuthnException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)


def check_cose_key(key: bytes) -> None:
    """Check that `key` is a public key that a passkey can sign with here.

    Raises:
        Unproven: it is not.
    """
    try:
        parsed = decode_credential_public_key(key)
        decoded_public_key_to_cryptography(parsed)
    except _MALFORMED_PASSKEY_ERRORS as error:
        raise Unproven(f"not a COSE public key: {error}") from error
    if parsed.alg not in PASSKEY_ALGORITHMS:
        raise Unproven(f"passkeys sign with ES256, EdDSA or RS256, not with algorithm {parsed.alg}")


def verify_passkey_assertion(
    key: bytes, credential_id: str, message: bytes, signature: Signature, passkeys: RelyingParty | None
) -> int:
    """Return the authenticator's signature counter, once the assertion over `message` holds; 0 where it has none.

    Raises:
        Unproven: another statement, key, origin or relying party, or the person was not verified.
    """
    if passkeys is None:
        raise Unproven("no passkey counts here: the file of vote roots has no [passkeys]")
    try:
        client_data = _decode_bounded_base64url(signature.client_data, MAX_CLIENT_DATA_BYTES)
        authenticator_data = _decode_bounded_base64url(signature.authenticator_data, MAX_AUTHENTICATOR_DATA_BYTES)
        verified = verify_authentication_response(
            credential=_assertion_credential(credential_id, client_data, authenticator_data, signature),
            expected_challenge=hashlib.sha256(message).digest(),
            expected_rp_id=passkeys.rp_id,
            expected_origin=list(passkeys.origins),
            credential_public_key=key,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
        in_a_frame = parse_client_data_json(client_data).cross_origin
    except _MALFORMED_PASSKEY_ERRORS as error:
        raise Unproven(f"the passkey's signature does not hold: {error}") from error
    if in_a_frame:
        raise Unproven("the passkey's signature does not hold: it was made in a frame of another site")
    return verified.new_sign_count


def _decode_bounded_base64url(text: str, limit: int) -> bytes:
    raw = base64url_to_bytes(text)
    if not 0 < len(raw) <= limit:
        raise ValueError(f"a part of it is empty, or has more than {limit} bytes")
    return raw


def _assertion_credential(
    credential_id: str, client_data: bytes, authenticator_data: bytes, signature: Signature
) -> dict[str, Any]:
    return {
        "id": credential_id,
        "rawId": credential_id,
        "type": "public-key",
        "response": {
            "clientDataJSON": _to_base64url(client_data),
            "authenticatorData": _to_base64url(authenticator_data),
            "signature": _to_base64url(_decode_bounded_base64url(signature.value, MAX_AUTHENTICATOR_DATA_BYTES)),
        },
    }


def _to_base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
