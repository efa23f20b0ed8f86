"""The knowledge base: documents in, ranked passages out."""

from flotilla.knowledge.base import KnowledgeBase
from flotilla.knowledge.documents import Added, Document, Upload
from flotilla.knowledge.ranking import Ranking
from flotilla.knowledge.tool import SEARCH_TOOL, search_tool

__all__ = ["SEARCH_TOOL", "Added", "Document", "KnowledgeBase", "Ranking", "Upload", "search_tool"]
