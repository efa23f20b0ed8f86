"""What makes the log tamper-evident: a hash chain per session, Merkle trees over chain heads, checkpoint statements.

Standard library only, so that an auditor's verifier depends on nothing else. The Merkle tree and its inclusion paths
are those of Certificate Transparency (RFC 9162, section 2.1), with SHA-256.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256

HASH_BYTES = 32
NO_PREVIOUS_CHECKPOINT = "0" * 64
"""`previous` of a partition's first checkpoint."""
CHECKPOINT_STATEMENT_FORMAT = "flotilla-checkpoint/2"
FIRST_CHECKPOINT_STATEMENT_FORMAT = "flotilla-checkpoint/1"
"""Without an epoch and what came with it; such statements stay valid."""
_LEAF, _NODE = b"\x00", b"\x01"


def genesis_hash(tenant_id: str, session_id: str, parent_session_id: str | None = None, at_seq: int = 0) -> bytes:
    """What the first event of a chain is linked to: SHA-256 of tenant, session, parent and at_seq, NUL-separated.

    A session without a parent has an empty parent and at_seq 0. No id holds a NUL, so no two sessions agree.
    """
    return sha256("\0".join((tenant_id, session_id, parent_session_id or "", str(at_seq))).encode()).digest()


def next_chain_hash(previous: bytes, body: bytes) -> bytes:
    """The chain's hash at an event: SHA-256(hash of the event before ‖ the event's bytes)."""
    return sha256(previous + body).digest()


def session_head_leaf(tenant_id: str, session_id: str, seq: int, head_hash: bytes) -> bytes:
    """The Merkle leaf of a session's head."""
    return sha256(_LEAF + "\0".join((tenant_id, session_id, str(seq), head_hash.hex())).encode()).digest()


def digest_of_statements(statements: Iterable[bytes]) -> str:
    """What stands for several statements: SHA-256 over their SHA-256 hashes, hex."""
    return sha256(b"".join(sha256(statement).digest() for statement in statements)).hexdigest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over `leaves`, in their order; of none, SHA-256 of nothing."""
    if not leaves:
        return sha256().digest()
    level = list(leaves)
    while len(level) > 1:
        # An odd one out is lifted as it is: the same tree as splitting at the largest power of two.
        pairs = [sha256(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
    return level[0]


def merkle_inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root."""
    path = []
    level = list(leaves)
    while len(level) > 1:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        pairs = [sha256(_NODE + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*pairs, level[-1]] if len(level) % 2 else pairs
        index //= 2
    return path


def merkle_root_from_path(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `count` leaves that has `leaf` at `index`; None when the path does not fit the tree."""
    if not 0 <= index < count:
        return None
    node, rest = leaf, list(path)
    while count > 1:
        if index ^ 1 < count:
            if not rest:
                return None
            sibling = rest.pop(0)
            node = sha256(_NODE + (sibling + node if index % 2 else node + sibling)).digest()
        index, count = index // 2, (count + 1) // 2
    return None if rest else node


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRewind:
    """A person's decision that a session has another history from some event on."""

    tenant_id: str
    session_id: str
    from_seq: int
    base: bytes
    """The chain's hash before that event: what both histories have in common."""
    old_seq: int
    old_hash: bytes
    """The head that was set aside."""

    def to_merkle_leaf(self) -> bytes:
        """Its Merkle leaf: it joins seven texts, that of a head four, and no id holds a NUL."""
        place = ("rewind", self.tenant_id, self.session_id, str(self.from_seq))
        hashes = (self.base.hex(), str(self.old_seq), self.old_hash.hex())
        return sha256(_LEAF + "\0".join((*place, *hashes)).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a checkpoint says, and its owner signs: where a partition stood, and the heads that had changed."""

    partition: int
    number: int
    """From 1, without gaps, per partition."""
    previous: str
    """SHA-256 of the statement before, hex; `NO_PREVIOUS_CHECKPOINT` for the first."""
    next_offset: int
    """All records below this offset are projected (or parked)."""
    heads: int
    """How many sessions' heads changed since the checkpoint before: the first leaves."""
    merkle_root: str
    """Over the leaves of those heads, then of the rewinds, hex."""
    created_at: str
    epoch: int = 1
    """Goes up where the chain of checkpoints could not just go on: some were abandoned, or a history was exchanged."""
    last_record: str = ""
    """`hash_kafka_record` of the record before `next_offset`, hex; empty where none was read since an upgrade."""
    rewinds: int = 0
    """How many sessions have another history since the checkpoint before, by decision of a person: the last leaves."""
    abandoned: int = 0
    """How many numbers before this one were signed, but lost from PostgreSQL; they are in Kafka, and not used again."""
    abandoned_digest: str = ""
    """`digest_of_statements` the abandoned statements in order; empty without any."""
    format: str = CHECKPOINT_STATEMENT_FORMAT

    @property
    def leaves(self) -> int:
        """How many leaves the Merkle tree has."""
        return self.heads + self.rewinds

    def to_bytes(self) -> bytes:
        """The bytes that are signed and kept."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> "Statement":
        """Read a statement, of this format or the first.

        Raises:
            ValueError: it is not one.
        """
        document = json.loads(body)
        names = _FIELDS_BY_FORMAT.get(str(document.get("format"))) if isinstance(document, dict) else None
        if names is None or document.keys() != names:
            raise ValueError("not a checkpoint statement")
        for name, value in document.items():
            wanted = int if name in _NUMERIC_FIELDS else str
            if type(value) is not wanted:
                raise ValueError(f"not a checkpoint statement: {name} is not {wanted.__name__}")
        return cls(**document)


_NUMERIC_FIELDS = frozenset({"partition", "number", "next_offset", "heads", "epoch", "rewinds", "abandoned"})
_FIELDS_SINCE_FORMAT_2 = frozenset({"epoch", "last_record", "rewinds", "abandoned", "abandoned_digest"})
_FIELDS = frozenset(field.name for field in fields(Statement))
_FIELDS_BY_FORMAT = {
    CHECKPOINT_STATEMENT_FORMAT: _FIELDS,
    FIRST_CHECKPOINT_STATEMENT_FORMAT: _FIELDS - _FIELDS_SINCE_FORMAT_2,
}


def split_concatenated_leaves(leaves: bytes) -> list[bytes]:
    """The leaves of a checkpoint, stored one after the other."""
    return [leaves[start : start + HASH_BYTES] for start in range(0, len(leaves), HASH_BYTES)]
