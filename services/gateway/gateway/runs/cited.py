"""Runs as their reader may see them: the documents that they cite are looked at again each time."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from flotilla.contracts.requests import OPEN_RUN_STATUSES, RAGResponse
from flotilla.contracts.session_events import Source
from flotilla.knowledge import unreadable_and_missing_documents
from flotilla.postgres import Connection, Pool, tenant_transaction
from gateway.runs.records import load_run
from gateway.schemas.runs import Run

EndNote: TypeAlias = Callable[[Connection, Run], Awaitable[None]]
"""What is noted in the transaction that reads a run that has ended."""
HIDDEN_TITLE = "A document that you may not read"


async def get_readable_run(pool: Pool, tenant_id: str, run_id: str, note: EndNote | None = None) -> Run:
    """Return a run as the caller may see it; where it has ended, call `note`, whose commit does not wait for the disk.

    Raises:
        NotFound: the tenant has no such run.
    """
    async with tenant_transaction(pool, tenant_id, durable=note is None) as connection:
        run = await load_run(connection, tenant_id, run_id)
        if note is not None and run.status not in OPEN_RUN_STATUSES:
            await note(connection, run)
        [readable] = await with_cited_documents(connection, tenant_id, [run])
    return readable


async def with_cited_documents(connection: Connection, tenant_id: str, runs: Sequence[Run]) -> list[Run]:
    """Return the runs, each with the ids of those cited documents that are no longer there, and nothing of sources that
    the caller may not read."""
    cited = {one for run in runs for one in _cited(run)}
    hidden, removed = await unreadable_and_missing_documents(connection, tenant_id, cited)
    return [
        run.model_copy(
            update={"removed_documents": sorted(removed & _cited(run)), "result": _shown(run.result, hidden)}
        )
        for run in runs
    ]


def _cited(run: Run) -> set[str]:
    sources = (*run.result.sources, *(one.source for one in run.result.dropped_citations)) if run.result else ()
    return {source.document_id for source in sources}


def _shown(result: RAGResponse | None, hidden: set[str]) -> RAGResponse | None:
    if result is None or not hidden:
        return result
    dropped = [replace(one, source=_source(one.source, hidden)) for one in result.dropped_citations]
    return replace(result, sources=[_source(one, hidden) for one in result.sources], dropped_citations=dropped)


def _source(source: Source, hidden: set[str]) -> Source:
    if source.document_id not in hidden:
        return source
    return replace(source, title=HIDDEN_TITLE, uri="", quote="", place="")
