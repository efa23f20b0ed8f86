"""The knowledge base: documents in, ranked passages out."""

from flotilla.knowledge.base import KnowledgeBase, unreadable_and_missing_documents
from flotilla.knowledge.documents import Document, StoreResult, UploadedDocument
from flotilla.knowledge.ranking import RankingOptions
from flotilla.knowledge.retriever import DocumentRetriever
from flotilla.knowledge.tool import SEARCH_TOOL, search_tool
from flotilla.knowledge.wiring import create_knowledge_base

__all__ = [
    "SEARCH_TOOL",
    "Document",
    "DocumentRetriever",
    "KnowledgeBase",
    "RankingOptions",
    "StoreResult",
    "UploadedDocument",
    "create_knowledge_base",
    "search_tool",
    "unreadable_and_missing_documents",
]
