"""The key that signs A2A agent cards, and the public keys that verify them."""

from dataclasses import dataclass, field
from pathlib import Path

from flotilla.config.signing import PublicKeys, Signer, load_public_keys, load_signer


@dataclass(frozen=True, slots=True)
class AgentCardKey:
    """The key that signs cards."""

    signer: Signer
    pem: bytes = field(repr=False)
    public_keys: PublicKeys
    """Its own public half, then others: of keys that signed cards before, or will."""

    @classmethod
    def load(cls, file: Path, others: Path | None = None) -> "AgentCardKey":
        """Read it from a file, and the public keys of `others`.

        Raises:
            ConfigurationError: there is no such file, or it holds no Ed25519 key.
        """
        signer = load_signer(file)
        keys = {**signer.public_keys().by_id, **(load_public_keys(others).by_id if others else {})}
        return cls(signer, file.read_bytes(), PublicKeys(keys))
