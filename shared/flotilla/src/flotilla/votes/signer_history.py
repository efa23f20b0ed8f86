"""When each key was approved and revoked, as the tenant's audit session has it. Pure: it is handed the events."""

from collections.abc import Iterable

import msgspec

from flotilla.contracts.envelope import decode_event
from flotilla.contracts.errors import Undecodable
from flotilla.votes.errors import Unproven

APPROVED, REVOKED = "signer_approved", "signer_revoked"


class _KeyChangeDetails(msgspec.Struct, frozen=True):
    fingerprint: str


class SignerHistory:
    """The keys of one tenant. It only grows: what was revoked stays revoked, whatever the log says later."""

    def __init__(self) -> None:
        self.head_seq = 0
        """How much of the audit session was read."""
        self._approved: dict[str, int] = {}
        self._revoked: dict[str, int] = {}

    def add_audit_events(self, head_seq: int, events: Iterable[tuple[int, bytes]]) -> None:
        """Take the events after `head_seq` of before, each with its place in the log; those of other kinds are skipped.

        Raises:
            Unproven: the log is shorter than it was, or an event about a key can't be read.
        """
        if head_seq < self.head_seq:
            raise Unproven(
                f"the log of signing keys went back from event {self.head_seq} to {head_seq}: it lost events, perhaps "
                "revocations. If it was restored on purpose, restart this service"
            )
        for seq, body in events:
            self._add_key_change(seq, body)
        self.head_seq = head_seq

    def _add_key_change(self, seq: int, body: bytes) -> None:
        try:
            event = decode_event(body)
            if (change := event.data.get("change")) in (APPROVED, REVOKED):
                known = self._approved if change == APPROVED else self._revoked
                known.setdefault(msgspec.convert(event.data.get("details"), _KeyChangeDetails).fingerprint, seq)
        except (Undecodable, msgspec.ValidationError) as error:
            raise Unproven(f"event {seq} of the log of signing keys can't be read: {error}") from error

    def key_revocation_seq(self, fingerprint: str) -> int | None:
        """Return the place in the log of the key's revocation; None while there is none."""
        return self._revoked.get(fingerprint)

    def check_key_counted(self, fingerprint: str, at: int | None = None) -> None:
        """Check that a key counted when the log ended with event `at`; None: as far as it is known.

        Raises:
            Unproven: it was not approved, or was revoked.
        """
        place = self.head_seq if at is None else at
        if place > self.head_seq:
            raise Unproven(f"the vote is of event {place} of the log of signing keys, which ends at {self.head_seq}")
        if not 0 < self._approved.get(fingerprint, 0) <= place:
            raise Unproven(f"key {fingerprint} is not enrolled: the tenant's log has no approval of it before the vote")
        if 0 < self._revoked.get(fingerprint, 0) <= place:
            raise Unproven(f"key {fingerprint} was revoked by event {self._revoked[fingerprint]} of the tenant's log")
