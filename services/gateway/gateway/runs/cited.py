"""The documents that runs cite."""

from collections.abc import Sequence

from flotilla.knowledge import KnowledgeBase
from gateway.schemas.runs import Run


async def with_removed_documents(knowledge: KnowledgeBase, tenant_id: str, runs: Sequence[Run]) -> list[Run]:
    """Return the runs, each with the ids of those cited documents that are no longer there."""
    removed = await knowledge.missing(tenant_id, (cited for run in runs for cited in _cited(run)))
    return [run.model_copy(update={"removed_documents": sorted(removed & _cited(run))}) for run in runs]


def _cited(run: Run) -> set[str]:
    return {source.document_id for source in run.result.sources} if run.result else set()
