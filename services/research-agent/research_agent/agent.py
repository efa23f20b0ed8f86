"""The research agent: passages for a query."""

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.tasks import RESEARCH_COMPLETED, ResearchResult, ResearchTask
from flotilla.knowledge import SEARCH_TOOL

agent = Agent("research", version="1", announces=RESEARCH_COMPLETED)


@agent.task
async def research(ctx: TaskContext, task: ResearchTask) -> ResearchResult:
    """The passages that answer the query best; none where no word of it occurs in the documents."""
    passages = await ctx.tool(SEARCH_TOOL, query=task.query, top_k=task.top_k)
    return ResearchResult(query=task.query, passages=passages)
