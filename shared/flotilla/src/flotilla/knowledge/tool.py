"""The knowledge base as a tool that agents may put on their list."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from flotilla.contracts.tasks import Passage
from flotilla.contracts.tools import ToolOptions, with_tool_options
from flotilla.knowledge.retriever import DocumentRetriever

SEARCH_TOOL = "search_knowledge_base"


class TenantContext(Protocol):
    """A search is always for a tenant: a `TaskContext` does."""

    @property
    def tenant_id(self) -> str:
        """Whose documents are searched."""

    @property
    def session_id(self) -> str:
        """Whose attachments are searched, too."""


def search_tool(knowledge: DocumentRetriever) -> Callable[..., Awaitable[list[Passage]]]:
    """The tool `search_knowledge_base`, under that name, over `knowledge`."""

    async def search_knowledge_base(ctx: TenantContext, query: str, top_k: int = 5) -> list[Passage]:
        """Search the documents for passages about `query` (a few words or a question) and give the `top_k` best."""
        return await knowledge.search(ctx.tenant_id, query, top_k, ctx.session_id)

    return with_tool_options(search_knowledge_base, ToolOptions(repeatable=True, searches=True))
