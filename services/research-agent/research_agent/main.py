"""The research agent as a service."""

from contextlib import AsyncExitStack

from flotilla.agent import open_agent_pool, run_agent
from flotilla.bus import connect_redis
from flotilla.knowledge import SEARCH_TOOL, create_knowledge_base, search_tool
from flotilla.knowledge.redis_vectors import open_vector_store
from flotilla.llm import EXTRACTIVE_MODEL, TokenLimits, create_money_budget, open_models
from flotilla.runtime import Runtime, serve
from research_agent.agent import researcher
from research_agent.settings import Settings

SERVICE = "research-agent"


async def run(settings: Settings, runtime: Runtime) -> None:
    """Open the knowledge base and serve the agent's tasks until `runtime.stop`."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_agent_pool(settings, application=SERVICE))
        vectors = await stack.enter_async_context(open_vector_store(settings, connect_redis))
        search = search_tool(create_knowledge_base(pool, settings, vectors))
        model, replay_models = await stack.enter_async_context(open_models(settings))
        has_model = settings.research_rewrite == "model" and model.name != EXTRACTIVE_MODEL
        await run_agent(
            researcher(has_model=has_model, language=settings.knowledge_language),
            settings,
            runtime,
            tools={SEARCH_TOOL: search},
            model=model,
            limits=TokenLimits.of(settings),
            money=create_money_budget(settings),
            replay_models=replay_models,
            pool=pool,
        )


def main() -> None:
    """Entry point of `research-agent`."""
    raise SystemExit(serve(SERVICE, Settings, run))


if __name__ == "__main__":
    main()
