"""Cursor paging: a page is `{<name>: [...], next_cursor}`; the cursor says where the next one begins."""

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, TypeAlias

from fastapi import Query

from flotilla.contracts.errors import Invalid
from flotilla.encryption import Row

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
Limit: TypeAlias = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at most.")]
Cursor: TypeAlias = Annotated[
    str | None, Query(max_length=2000, description="`next_cursor` of the page before; leave it out for the first page.")
]


def make_cursor(*position: str) -> str:
    """An opaque cursor for `position`."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, length: int) -> list[str] | None:
    """The position that `make_cursor` was given.

    Raises:
        Invalid: it is not a cursor of this listing.
    """
    if cursor is None:
        return None
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error) as error:
        raise Invalid("cursor is not valid: pass the next_cursor of the previous page, unchanged") from error
    if not isinstance(position, list) or len(position) != length or not all(isinstance(p, str) for p in position):
        raise Invalid("cursor: it belongs to another listing")
    return position


def time_cursor(created_at: datetime, row_id: str) -> str:
    """A cursor for listings that are newest first."""
    return make_cursor(created_at.isoformat(), row_id)


def read_time_cursor(cursor: str | None) -> tuple[datetime | None, str | None]:
    """Creation time and id of the last row of the page before.

    Raises:
        Invalid: it is not a cursor of such a listing.
    """
    position = read_cursor(cursor, 2)
    if position is None:
        return None, None
    try:
        created_at = datetime.fromisoformat(position[0])
    except ValueError as error:
        raise Invalid("cursor is not valid: pass the next_cursor of the previous page, unchanged") from error
    if created_at.tzinfo is None or "\x00" in position[1]:
        raise Invalid("cursor is not valid: pass the next_cursor of the previous page, unchanged")
    return created_at, position[1]


def next_time_cursor(rows: Sequence[Row], limit: int, id_name: str, time_name: str = "created_at") -> str | None:
    """Where the next page begins; None when this one is not full."""
    if len(rows) < limit:
        return None
    last = rows[-1]
    return time_cursor(last[time_name], last[id_name])
