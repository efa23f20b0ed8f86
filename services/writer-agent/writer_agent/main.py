"""The writer agent as a service."""

from contextlib import AsyncExitStack
from functools import partial

from flotilla.agent import ToolFunction, open_agent_pool, run_agent
from flotilla.answers.calibration import read_calibrations
from flotilla.answers.support import OverlapChecker
from flotilla.answers.words import analysis_for_passages
from flotilla.bus import connect_redis
from flotilla.contracts.errors import ConfigurationError
from flotilla.knowledge import SEARCH_TOOL, KnowledgeBase, create_knowledge_base, search_tool
from flotilla.knowledge.embedders import create_embedder
from flotilla.knowledge.redis_vectors import open_vector_store
from flotilla.llm import EXTRACTIVE_MODEL, LanguageModel, TokenLimits, create_money_budget, open_models
from flotilla.runtime import Runtime, serve
from writer_agent.agent import AnswerWriting, create_writer_agent
from writer_agent.settings import Settings
from writer_agent.tool_loop import AnswerBudget

SERVICE = "writer-agent"


async def run(settings: Settings, runtime: Runtime) -> None:
    """Open the model and serve the agent's tasks until `runtime.stop`."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_agent_pool(settings, application=SERVICE))
        terms = partial(analysis_for_passages, default_language=settings.knowledge_language)
        model, replay_models = await stack.enter_async_context(open_models(settings, terms))
        vectors = await stack.enter_async_context(open_vector_store(settings, connect_redis))
        tools = _tools(create_knowledge_base(pool, settings, vectors), settings.writer_tools)
        limits, money = TokenLimits.of(settings), create_money_budget(settings)
        agent = create_writer_agent(_writing(settings, model))
        await run_agent(
            agent,
            settings,
            runtime,
            tools=tools,
            model=model,
            limits=limits,
            money=money,
            replay_models=replay_models,
            pool=pool,
        )


def _tools(knowledge: KnowledgeBase, allowed: tuple[str, ...]) -> dict[str, ToolFunction]:
    known = {SEARCH_TOOL: search_tool(knowledge)}
    unknown = sorted(set(allowed) - known.keys())
    if unknown:
        raise ConfigurationError(f"FLOTILLA_WRITER_TOOLS names {unknown}: there are {sorted(known)}")
    return {name: known[name] for name in allowed}


def _writing(settings: Settings, model: LanguageModel) -> AnswerWriting:
    if settings.writer_support == "model" and model.name == EXTRACTIVE_MODEL:
        raise ConfigurationError(
            "FLOTILLA_WRITER_SUPPORT is `model`, and there is none: set OPENAI_BASE_URL, or check by `overlap`"
        )
    budget = AnswerBudget(
        tool_steps=settings.writer_max_tool_steps,
        tokens=settings.writer_max_tokens,
        output_tokens=settings.llm_max_output_tokens,
    )
    return AnswerWriting(
        tools=settings.writer_tools,
        budget=budget,
        history_turns=settings.writer_history_turns,
        overlap=OverlapChecker(create_embedder(settings), language=settings.knowledge_language),
        has_judge=settings.writer_support == "model",
        calibrations=read_calibrations(settings.calibration_file),
        abstains=settings.writer_abstain,
        language=settings.knowledge_language,
    )


def main() -> None:
    """Entry point of `writer-agent`."""
    raise SystemExit(serve(SERVICE, Settings, run))


if __name__ == "__main__":
    main()
