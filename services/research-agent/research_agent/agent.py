"""The research agent: passages for a query."""

from flotilla.agent import Agent, TaskContext
from flotilla.answers.followups import searchable_question
from flotilla.contracts.session_events import StateChange
from flotilla.contracts.tasks import RESEARCH_COMPLETED, ResearchResult, ResearchTask
from flotilla.knowledge import SEARCH_TOOL

agent = Agent("research", version="1", announces=RESEARCH_COMPLETED, replayable=True)


@agent.task
async def research(ctx: TaskContext, task: ResearchTask) -> ResearchResult:
    """The passages that answer the query best; none where no word of it occurs in the documents."""
    searched_for = searchable_question(task.query, task.history)
    if searched_for != task.query:
        details = {"asked": task.query, "searched_for": searched_for}
        ctx.record("state_change", StateChange(change="question_rewritten", details=details))
    passages = await ctx.tool(SEARCH_TOOL, query=searched_for, top_k=task.top_k)
    return ResearchResult(query=task.query, passages=passages, searched_for=searched_for)
