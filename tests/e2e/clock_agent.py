"""The agent `clock` of the end-to-end tests: one answer of the model, one call of a tool of an MCP server."""

from dataclasses import dataclass

from flotilla.agent import Agent, TaskContext, serve_agent
from flotilla.agent.chat import Settings
from flotilla.llm import ChatMessage, CompletionRequest

agent = Agent("clock", version="7", mcp=("time",))


@dataclass(frozen=True)
class Asked:
    """The question, and where."""

    question: str
    zone: str


@dataclass(frozen=True)
class Said:
    """What the model said, and what the tool did."""

    text: str
    time: str


@agent.task
async def tell(ctx: TaskContext, task: Asked) -> Said:
    """Ask both."""
    answer = await ctx.llm(CompletionRequest(messages=(ChatMessage(role="user", content=task.question),)))
    time = await ctx.tool("mcp__time__get_current_time", timezone=task.zone)
    return Said(text=answer.text, time=str(time))


if __name__ == "__main__":
    raise SystemExit(serve_agent(agent, settings_type=Settings))
