"""The smallest agent that writes a result and a session event."""

from dataclasses import dataclass

from flotilla.agent import Agent, AgentSettings, TaskContext, run_agent
from flotilla.runtime import Runtime, serve


@dataclass(frozen=True)
class Echo:
    text: str


agent = Agent("echo", version="1")


@agent.task
async def echo(ctx: TaskContext, task: Echo) -> Echo:
    ctx.record("state_change", {"change": "echoed", "details": {}})
    return task


async def run(settings: AgentSettings, runtime: Runtime) -> None:
    await run_agent(agent, settings, runtime)


if __name__ == "__main__":
    raise SystemExit(serve("echo-agent", AgentSettings, run))
