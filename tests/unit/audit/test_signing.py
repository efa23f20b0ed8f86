"""Public keys as verifiers get them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flotilla.config.signing import Signer, load_public_keys
from flotilla.contracts.errors import ConfigurationError

STATEMENT = b"statement"


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def certificate(key: Ed25519PrivateKey) -> bytes:
    name = x509.Name([])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(key, None).public_bytes(serialization.Encoding.PEM)


def test_keys_and_certificates_of_one_file_are_all_trusted(tmp_path: Path) -> None:
    replaced, current, stranger = (Ed25519PrivateKey.generate() for _ in range(3))
    (tmp_path / "keys").write_bytes(b"# since spring\n" + public_pem(replaced) + b"\n" + certificate(current))

    trusted = load_public_keys(tmp_path / "keys")

    for key in (replaced, current):
        signer = Signer(key)
        assert trusted.signature_problem(signer.key_id, STATEMENT, signer.sign(STATEMENT)) is None
    assert "not among the trusted" in str(trusted.signature_problem(Signer(stranger).key_id, STATEMENT, b""))
    assert "wrong signature" in str(
        trusted.signature_problem(Signer(current).key_id, STATEMENT, Signer(stranger).sign(STATEMENT))
    )


def test_what_is_no_ed25519_public_key_is_named(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    other = (
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for content, said in [(b"", "holds no public key"), (private, "not a public key"), (other, "not Ed25519")]:
        (tmp_path / "keys").write_bytes(content)
        with pytest.raises(ConfigurationError, match=said):
            load_public_keys(tmp_path / "keys")
