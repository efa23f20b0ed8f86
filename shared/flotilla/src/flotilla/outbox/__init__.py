"""The transactional outbox: append on the caller's connection; the relay moves rows to Kafka."""

from flotilla.outbox.append import AppendedRange, PreparedEvents, append, prepare_events, session_not_found

__all__ = ["AppendedRange", "PreparedEvents", "append", "prepare_events", "session_not_found"]
