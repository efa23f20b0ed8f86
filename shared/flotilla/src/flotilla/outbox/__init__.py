"""The transactional outbox: append on the caller's connection; the relay moves rows to Kafka."""

from flotilla.outbox.append import Appended, append
from flotilla.outbox.lanes import lane_of

__all__ = ["Appended", "append", "lane_of"]
