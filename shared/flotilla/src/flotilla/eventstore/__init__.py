"""The log of each session: append, replay, state at any point, diff, fork, rollback, verification.

Names are loaded on first use, so that the standalone verifier (`flotilla.eventstore.verify_export`) pulls in no
database or Kafka client.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flotilla.eventstore.diff import StateDiff
    from flotilla.eventstore.kafka_log import KafkaLog, open_kafka_log
    from flotilla.eventstore.log import Page, Segment
    from flotilla.eventstore.sessions import Session
    from flotilla.eventstore.state import SessionState, fold, state_json, state_json_blocks
    from flotilla.eventstore.store import AgentEventStore

_HOME = {
    "AgentEventStore": "store",
    "KafkaLog": "kafka_log",
    "Page": "log",
    "Segment": "log",
    "Session": "sessions",
    "SessionState": "state",
    "StateDiff": "diff",
    "fold": "state",
    "open_kafka_log": "kafka_log",
    "state_json": "state",
    "state_json_blocks": "state",
}

__all__ = [
    "AgentEventStore",
    "KafkaLog",
    "Page",
    "Segment",
    "Session",
    "SessionState",
    "StateDiff",
    "fold",
    "open_kafka_log",
    "state_json",
    "state_json_blocks",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
