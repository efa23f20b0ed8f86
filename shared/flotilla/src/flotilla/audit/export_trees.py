"""Checks the inclusions of an export: that its anchors are entries of the log's trees, which witnesses saw."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from flotilla.audit.export_format import Anchor, Inclusion
from flotilla.audit.notes import (
    WITNESS_KEY,
    NoteKey,
    SignedNote,
    TreeHead,
    decode_note,
    decode_tree_head,
    parse_note_key,
    why_tree_head_not_trusted,
    witnesses_that_cosigned,
)
from flotilla.audit.proof import merkle_root_from_path
from flotilla.audit.tree import leaf_hash
from flotilla.config.signing import PublicKeys
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import log_origin
from flotilla.kafka.lanes import lane_of_session


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """Whose cosignatures a verifier asks for."""

    witnesses: Sequence[NoteKey] = ()
    needed: int = 0
    """That many of them, each counted once, have to be under the checkpoint of every anchor."""
    origin: str | None = None
    """The log's name. With witnesses it is needed: they cosign other people's logs, too."""

    @classmethod
    def from_options(cls, keys: Sequence[str], needed: int | None, origin: str | None) -> "WitnessPolicy":
        """The policy of a command line: all witnesses that are named have to sign, unless `needed` says how many.

        Raises:
            ConfigurationError: a key is not `NAME+ID+KEY`.
        """
        witnesses = [parse_note_key(key) for key in keys]
        return cls(witnesses, len({one.public_key_bytes for one in witnesses}) if needed is None else needed, origin)

    def check_policy(self) -> None:
        """Check that the policy can be met, and means something.

        Raises:
            ConfigurationError: it can't, or does not.
        """
        if self.needed < 0:
            raise ConfigurationError(f"{self.needed} witnesses can't be asked for: --witnesses takes 0 or more")
        if any(witness.kind != WITNESS_KEY for witness in self.witnesses):
            raise ConfigurationError("a witness signs with a key of its own kind: NAME+ID+KEY, where KEY begins with B")
        if self.needed > len({witness.public_key_bytes for witness in self.witnesses}):
            raise ConfigurationError(f"{self.needed} witnesses are asked for, and fewer keys of witnesses are known")
        if self.needed and self.origin is None:
            raise ConfigurationError("with witnesses, the log has to be named: --origin flotilla.example.com/audit")


NO_WITNESSES_NEEDED = WitnessPolicy()


@dataclass(slots=True)
class ExportedTreeChecker:
    """Takes the inclusions of one export."""

    tenant_id: str
    keys: PublicKeys
    policy: WitnessPolicy = NO_WITNESSES_NEEDED
    proven: int = 0
    cosigned: dict[str, int] = field(default_factory=dict)
    """By session, how many of the policy's witnesses saw its anchor."""

    def problem_of_inclusion(self, anchor: Anchor, inclusion: Inclusion) -> str | None:
        """What is wrong with the proof that the tree holds the anchor; None when nothing is."""
        if (inclusion.session, inclusion.seq) != (anchor.session, anchor.seq):
            return f"this inclusion is of event {inclusion.seq} of session {inclusion.session}"
        try:
            note = decode_note(inclusion.checkpoint.encode())
            head = decode_tree_head(note)
        except ValueError as error:
            return f"the checkpoint of its tree: {error}"
        if problem := self._problem_of_tree_head(anchor, note, head):
            return f"the checkpoint of its tree {problem}"
        leaf, path = leaf_hash(bytes.fromhex(anchor.hash)), [bytes.fromhex(node) for node in inclusion.path]
        if merkle_root_from_path(leaf, inclusion.index, head.size, path) != head.root:
            return f"the tree {head.origin} of {head.size} entries does not hold this event at {inclusion.index}"
        self.proven += 1
        self.cosigned[anchor.session] = len(witnesses_that_cosigned(note, self.policy.witnesses))
        return None

    def why_not_witnessed(self, session_id: str) -> str | None:
        """Why not enough witnesses saw the session; None when they did, or none are asked for."""
        found = self.cosigned.get(session_id, 0)
        if found >= self.policy.needed:
            return None
        return (
            f"session {session_id} is in no tree that {self.policy.needed} of the given witnesses cosigned "
            f"({found} did): ask for a newer export"
        )

    def _problem_of_tree_head(self, anchor: Anchor, note: SignedNote, head: TreeHead) -> str | None:
        partition = lane_of_session(self.tenant_id, anchor.session)
        wanted = log_origin(self.policy.origin or head.origin.rpartition("/")[0], partition)
        if head.origin != wanted:
            return f"is of log {head.origin}, not of {wanted}"
        return why_tree_head_not_trusted(note, head, self.keys)
