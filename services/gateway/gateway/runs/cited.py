"""The documents that runs cite."""

from collections.abc import Sequence
from dataclasses import replace

from flotilla.contracts.requests import RAGResponse
from flotilla.contracts.session_events import Source
from flotilla.knowledge import KnowledgeBase
from gateway.schemas.runs import Run

HIDDEN_TITLE = "A document that you may not read"


async def with_cited_documents(knowledge: KnowledgeBase, tenant_id: str, runs: Sequence[Run]) -> list[Run]:
    """Return the runs, each with the ids of those cited documents that are no longer there, and nothing of sources that
    the caller may not read."""
    cited = {one for run in runs for one in _cited(run)}
    hidden, removed = await knowledge.unreadable_and_missing_documents(tenant_id, cited)
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
