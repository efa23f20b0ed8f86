"""The transactional outbox: append on the caller's connection; the relay moves rows to Kafka."""

from flotilla.outbox.append import Appended, append

__all__ = ["Appended", "append"]
