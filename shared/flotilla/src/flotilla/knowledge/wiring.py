"""The knowledge base as a service's settings ask for it."""

import asyncio

from flotilla.config import KnowledgeSettings
from flotilla.knowledge.base import KnowledgeBase
from flotilla.knowledge.embedders import create_embedder
from flotilla.knowledge.ranking import RankingOptions
from flotilla.knowledge.reranking import create_reranker
from flotilla.knowledge.vector_store import VectorStore
from flotilla.postgres import Pool
from flotilla.runtime.confined import FunctionRunner


def create_knowledge_base(
    pool: Pool,
    settings: KnowledgeSettings,
    vectors: VectorStore | None = None,
    *,
    run: FunctionRunner = asyncio.to_thread,
) -> KnowledgeBase:
    """Return the knowledge base in `pool`, with the vectors of `open_vector_store`; `run` runs what reads a document.

    Raises:
        ConfigurationError: a setting can't be used.
    """
    return KnowledgeBase(
        pool,
        ranking=RankingOptions(settings.knowledge_passages_per_document, settings.rerank_passages),
        language=settings.knowledge_language,
        embedder=create_embedder(settings),
        vectors=vectors,
        reranker=create_reranker(settings),
        run=run,
    )
