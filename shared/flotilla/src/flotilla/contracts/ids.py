"""Identifiers and time: the two sources of non-determinism, as values that callers pass in."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

import uuid_utils

Clock: TypeAlias = Callable[[], datetime]
"""Gives the current time, aware, in UTC."""

IdMaker: TypeAlias = Callable[[], str]
"""Gives a new identifier on each call."""


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A new UUIDv7 (RFC 9562): sorts by creation time to the millisecond."""
    return str(uuid_utils.uuid7())
