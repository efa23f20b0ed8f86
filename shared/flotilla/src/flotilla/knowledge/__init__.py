"""The knowledge base: documents in, ranked passages out."""

from flotilla.knowledge.base import KnowledgeBase
from flotilla.knowledge.documents import Added, Document, Upload
from flotilla.knowledge.ranking import Ranking

__all__ = ["Added", "Document", "KnowledgeBase", "Ranking", "Upload"]
