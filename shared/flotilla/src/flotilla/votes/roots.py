"""The file of vote roots: whose approval of a key counts. Operators write it; the stores do not hold it.

revoked = ["SHA256:..."]            # keys that never count, whatever the database says

[passkeys]
rp_id = "flotilla.example.com"
origins = ["https://flotilla.example.com"]

[[roots]]
tenant = "acme"
subject = "grace"
kind = "ssh"                        # or "ed25519", "passkey"
public_key = "ssh-ed25519 AAAA..."
credential_id = ""                  # of a passkey
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.votes import SignerKind
from flotilla.votes.errors import Unproven
from flotilla.votes.keys import SignerPublicKey, parse_signer_key
from flotilla.votes.relying_party import RelyingParty


class _RootEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tenant: str
    subject: str
    kind: SignerKind
    public_key: str
    credential_id: str = ""


class _PasskeySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rp_id: str
    origins: list[str]


class _VoteRootsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roots: list[_RootEntry] = []
    passkeys: _PasskeySettings | None = None
    revoked: list[str] = []


@dataclass(frozen=True, slots=True)
class VoteRoot:
    """A key whose holder may approve other people's keys in one tenant."""

    tenant: str
    subject: str
    key: SignerPublicKey


@dataclass(frozen=True, slots=True)
class VoteRoots:
    """What a verifier trusts. Without roots no signature counts."""

    roots: tuple[VoteRoot, ...] = ()
    passkeys: RelyingParty | None = None
    revoked: frozenset[str] = frozenset()

    def approval_keys(self, tenant: str, subject: str) -> Sequence[SignerPublicKey]:
        """Return the keys with which `subject` may approve keys of `tenant`."""
        return [root.key for root in self.roots if (root.tenant, root.subject) == (tenant, subject)]


def read_vote_roots(file: Path | None) -> VoteRoots:
    """Return the roots of a file; none without one.

    Raises:
        ConfigurationError: it can't be read, or something in it is not as it should be.
    """
    if file is None:
        return VoteRoots()
    try:
        return parse_vote_roots(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"vote roots {file} can't be read: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, Unproven) as error:
        raise ConfigurationError(f"vote roots {file}: {error}") from error


def parse_vote_roots(text: str) -> VoteRoots:
    """Return the roots of a file's text.

    Raises:
        tomllib.TOMLDecodeError, msgspec.ValidationError, Unproven: something in it is not as it should be.
    """
    written = msgspec.convert(tomllib.loads(text), _VoteRootsFile)
    if unknown := [name for name in written.revoked if not name.startswith("SHA256:")]:
        raise Unproven(f"`revoked` takes fingerprints, `SHA256:...`, not {', '.join(unknown)}")
    roots = [
        VoteRoot(root.tenant, root.subject, parse_signer_key(root.kind, root.public_key, root.credential_id))
        for root in written.roots
    ]
    found = written.passkeys
    passkeys = RelyingParty(found.rp_id, tuple(found.origins)) if found else None
    return VoteRoots(tuple(roots), passkeys, frozenset(written.revoked))
