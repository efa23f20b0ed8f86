"""What people who are asked may add to a session that they can't see: their vote, or their answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from flotilla.postgres import Connection, Pool, Viewer, acting_as, current_viewer, tenant_transaction


@asynccontextmanager
async def recording_transaction(pool: Pool, tenant_id: str, asked_id: str) -> AsyncIterator[Connection]:
    """Begin a transaction that may add to the session of an approval or a question what a vote or an answer adds."""
    viewer = replace(current_viewer() or Viewer(), deciding=asked_id)
    with acting_as(viewer):
        async with tenant_transaction(pool, tenant_id) as connection:
            yield connection
