"""The knowledge base: documents in, ranked passages out."""

from flotilla.knowledge.base import KnowledgeBase
from flotilla.knowledge.documents import Added, Document, Upload
from flotilla.knowledge.ranking import Ranking
from flotilla.knowledge.retriever import Retriever
from flotilla.knowledge.tool import SEARCH_TOOL, search_tool
from flotilla.knowledge.wiring import knowledge_base

__all__ = [
    "SEARCH_TOOL",
    "Added",
    "Document",
    "KnowledgeBase",
    "Ranking",
    "Retriever",
    "Upload",
    "knowledge_base",
    "search_tool",
]
