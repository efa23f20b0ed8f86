"""Checks one signature over one statement, by the kind of its key."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flotilla.contracts.votes import SSH_NAMESPACE, Signature, Signed
from flotilla.votes.errors import Unproven, require_passkey_library
from flotilla.votes.keys import SignerPublicKey, decode_base64, load_ssh_key
from flotilla.votes.relying_party import RelyingParty
from flotilla.votes.sshsig import verify_sshsig


def verify_signature(signed: Signed, key: SignerPublicKey, passkeys: RelyingParty | None) -> int:
    """Return the signature counter of a passkey (else 0), once the signature holds.

    Raises:
        Unproven: it does not.
    """
    message, signature = signed.statement.encode(), signed.signature
    if key.kind == "passkey":
        with require_passkey_library():
            from flotilla.votes.passkeys import verify_passkey_assertion
        return verify_passkey_assertion(key.blob, key.credential_id, message, signature, passkeys)
    if signature.client_data or signature.authenticator_data:
        raise Unproven(f"a signature of kind {key.kind} is its value alone")
    if key.kind == "ssh":
        verify_sshsig(key.text, message, signature.value, SSH_NAMESPACE)
    else:
        _verify_ed25519(key, message, signature)
    return 0


def _verify_ed25519(key: SignerPublicKey, message: bytes, signature: Signature) -> None:
    public = load_ssh_key(key.text)
    if not isinstance(public, Ed25519PublicKey):
        raise Unproven("the public key is not Ed25519")
    try:
        public.verify(decode_base64(signature.value), message)
    except InvalidSignature as error:
        raise Unproven("the Ed25519 signature does not hold") from error
