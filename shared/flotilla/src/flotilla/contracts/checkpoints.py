"""A checkpoint as it stands in the topic `flotilla.audit-checkpoints`, and in exports."""

from dataclasses import dataclass, field

from flotilla.contracts.envelope import from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """One signed checkpoint. In JSON, bytes are base64; the signature is over the bytes of `statement`."""

    partition: int
    number: int
    statement: bytes
    signature: bytes
    key_id: str
    leaves: bytes
    """The Merkle leaves, 32 bytes each."""
    tree_note: bytes = b""
    """The signed note of the log's tree that ends with this checkpoint; empty in those of older versions."""
    tree_entries: bytes = field(default=b"", compare=False)
    """What the checkpoint appended to that tree, 32 bytes each: from here the tree can be built again."""

    def to_json(self) -> bytes:
        """The record's value in Kafka."""
        return to_json(self)

    @classmethod
    def from_json(cls, body: bytes) -> "CheckpointRecord":
        """Read a record's value.

        Raises:
            Undecodable: it is none.
        """
        return from_json(body, cls)
