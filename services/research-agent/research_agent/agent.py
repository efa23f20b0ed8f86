"""The research agent: passages for a query."""

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.session_events import StateChange
from flotilla.contracts.tasks import RESEARCH_COMPLETED, ResearchResult, ResearchTask
from flotilla.knowledge import SEARCH_TOOL
from research_agent.rewriting import rewritten


def researcher(*, has_model: bool, language: str) -> Agent:
    """The agent `research`. With a model it puts follow-up questions into words of their own; `language` is that of
    questions which do not show theirs."""
    agent = Agent("research", version="1", announces=RESEARCH_COMPLETED, replayable=True)

    @agent.task
    async def research(ctx: TaskContext, task: ResearchTask) -> ResearchResult:
        """The passages that answer the query best; none where no word of it occurs in the documents."""
        found = await rewritten(ctx, task.query, task.history, has_model=has_model, language=language)
        if found.searched_for != task.query or found.why:
            details = {"asked": task.query, "searched_for": found.searched_for, "by": found.by}
            if found.why:
                details["why"] = found.why
            ctx.record("state_change", StateChange(change="question_rewritten", details=details))
        passages = await ctx.tool(SEARCH_TOOL, query=found.searched_for, top_k=task.top_k)
        return ResearchResult(query=task.query, passages=passages, searched_for=found.searched_for)

    return agent
