"""The transactional outbox: append on the caller's connection; the relay moves rows to Kafka."""

from flotilla.outbox.append import Appended, PreparedEvents, append, no_session, prepare

__all__ = ["Appended", "PreparedEvents", "append", "no_session", "prepare"]
