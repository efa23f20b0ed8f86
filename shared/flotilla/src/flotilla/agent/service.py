"""Runs an agent as a service: everything around the task function."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from flotilla.agent.agent import Agent
from flotilla.agent.handler import AgentTaskHandler
from flotilla.agent.login import check_database_role
from flotilla.agent.mcp_calls import open_tool_gateway_client
from flotilla.agent.ports import McpCaller
from flotilla.agent.proofs import VoteCheckRules
from flotilla.agent.registration import AgentRegistration
from flotilla.agent.session_keys import open_agent_pool
from flotilla.agent.settings import AgentSettings
from flotilla.agent.tools import AgentToolBox, ToolFunction
from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.bus import Consumer, ConsumerOptions, Redis, check_redis, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.config import LlmSettings
from flotilla.config.signing import load_public_keys
from flotilla.contracts.errors import ConfigurationError
from flotilla.llm import LanguageModel, MoneyBudget, TokenLimits, create_money_budget, open_models
from flotilla.postgres import Pool, check_schema
from flotilla.runtime import Job, Runtime, serve
from flotilla.runtime.stopping import wait_for_any_event
from flotilla.votes.roots import read_vote_roots

LOOP_STUCK_AFTER_S = 60.0
STOP_MARGIN_AFTER_DRAIN_S = 5.0
"""For what comes after the drain: the last heartbeat, leaving the group."""
S = TypeVar("S", bound=AgentSettings)


def serve_agent(
    agent: Agent,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    settings_type: type[S] = AgentSettings,  # type: ignore[assignment]
) -> int:
    """Run `agent` until SIGTERM and return the exit code: all that the `main` of a simple agent needs.

    With settings that are `LlmSettings`, too, `ctx.llm` asks the model that they describe, within their limits.
    """
    return serve(f"{agent.name}-agent", settings_type, partial(_run_agent_with_model, agent, tools))


async def _run_agent_with_model(
    agent: Agent, tools: Mapping[str, ToolFunction] | None, settings: AgentSettings, runtime: Runtime
) -> None:
    if not isinstance(settings, LlmSettings):
        await run_agent(agent, settings, runtime, tools=tools)
        return
    async with open_models(settings) as (model, replay_models):
        limits, money = TokenLimits.of(settings), create_money_budget(settings)
        await run_agent(
            agent, settings, runtime,
            tools=tools, model=model, limits=limits, money=money, replay_models=replay_models,
        )  # fmt: skip


async def run_agent(
    agent: Agent,
    settings: AgentSettings,
    runtime: Runtime,
    *,
    tools: Mapping[str, ToolFunction] | None = None,
    model: LanguageModel | None = None,
    limits: TokenLimits | None = None,
    money: MoneyBudget | None = None,
    replay_models: Mapping[str, LanguageModel] | None = None,
    pool: "Pool | None" = None,
    policy: ReloadingPolicyFile | None = None,
    jobs: Sequence[Job] = (),
) -> None:
    """Consume the agent's tasks until `runtime.stop`, then drains for `settings.drain_s`.

    `tools` are added to the agent's own; `model` answers `ctx.llm` within `limits` and the budgets
    of `money`, and stays the caller's to close, as do `replay_models`, which replays may ask for.
    `pool` is used if given, else one is opened; `policy`, else that of the settings. `jobs` run beside the agent's own.

    Raises:
        ConfigurationError: the agent has no task, its types can't travel, it is not the one of the settings, or the
            policy or the file of vote roots is not as it should be.
    """
    _check_agent_name(agent, settings)
    toolbox = AgentToolBox({**agent.tools, **(tools or {})})
    policy = policy or ReloadingPolicyFile(settings.approval_policy)
    async with AsyncExitStack() as stack:
        if pool is None:
            pool = await stack.enter_async_context(open_agent_pool(settings, application=runtime.service))
        redis = await stack.enter_async_context(
            connect_redis(settings.redis_url.get_secret_value(), name=runtime.service)
        )
        caller = None
        if agent.mcp and settings.tool_gateway_url:
            caller = await stack.enter_async_context(open_tool_gateway_client(settings.tool_gateway_url))
        membership = make_agent_jobs(
            agent, settings, runtime.instance, pool, redis,
            tools=toolbox, model=model, limits=limits, money=money, policy=policy, replay_models=replay_models,
            mcp_caller=caller,
        )  # fmt: skip
        add_agent_readiness_checks(runtime, pool, redis, agent.name)
        if not await runtime.wait_until_ready():
            return
        await runtime.supervisor.run(
            *membership,
            Job(name="policy", work=policy.reload_until_stopped),
            *jobs,
            limit_s=settings.drain_s + STOP_MARGIN_AFTER_DRAIN_S,
        )


def make_agent_jobs(
    agent: Agent,
    settings: AgentSettings,
    instance: str,
    pool: Pool,
    redis: Redis,
    *,
    tools: AgentToolBox,
    model: LanguageModel | None,
    limits: TokenLimits | None,
    money: MoneyBudget | None,
    policy: ReloadingPolicyFile,
    replay_models: Mapping[str, LanguageModel] | None = None,
    mcp_caller: McpCaller | None = None,
) -> list[Job]:
    """Return what makes a process a member of the agent's group: its registration, and the consumers of the tasks for
    any version and for its own."""
    concurrency = settings.agent_concurrency or agent.concurrency
    handler = AgentTaskHandler(
        agent,
        pool=pool,
        redis=redis,
        tools=tools,
        model=model,
        limits=limits,
        money=money,
        replay_models=replay_models,
        keys=load_public_keys(settings.ticket_public_key_file),
        vote_rules=VoteCheckRules(policy, read_vote_roots(settings.vote_roots)),
        mcp_caller=mcp_caller,
    )
    options = ConsumerOptions(concurrency=concurrency, min_idle_ms=settings.bus_min_idle_ms, grace_s=settings.drain_s)
    letters = PostgresDeadLetterStore(pool, settings.operator_tenant)
    consumers: list[Consumer] = []
    for stream in (agent.stream, agent.version_stream):
        consumers.append(
            Consumer(
                redis,
                stream,
                agent.group,
                instance,
                handler,
                options,
                letters,
                busy_beside=partial(_count_tasks_of_other_consumers, consumers, len(consumers)),
            )
        )
    registration = AgentRegistration(
        pool, agent, instance, concurrency, lambda: sum(consumer.in_flight_count for consumer in consumers)
    )
    return [
        Job(
            name="bus",
            work=partial(_consume_once_registered, registration, consumers[0]),
            stuck_after_s=LOOP_STUCK_AFTER_S,
        ),
        Job(
            name="bus of the version",
            work=partial(_consume_once_registered, registration, consumers[1]),
            stuck_after_s=LOOP_STUCK_AFTER_S,
        ),
        Job(name="registration", work=registration.keep_registered),
    ]


async def _consume_once_registered(registration: AgentRegistration, consumer: Consumer, stop: asyncio.Event) -> None:
    await wait_for_any_event(registration.tried, stop)
    await consumer.run(stop)


def _count_tasks_of_other_consumers(consumers: Sequence[Consumer], own: int) -> int:
    """How many tasks the other consumers have in hand."""
    return sum(consumer.in_flight_count for number, consumer in enumerate(consumers) if number != own)


def add_agent_readiness_checks(runtime: Runtime, pool: Pool, redis: Redis, agent: str) -> None:
    """Make readiness depend on what every agent needs."""
    runtime.health.add_check("postgres", partial(check_schema, pool))
    runtime.health.add_check("login", partial(check_database_role, pool, agent))
    runtime.health.add_check("redis", partial(check_redis, redis))


def _check_agent_name(agent: Agent, settings: AgentSettings) -> None:
    if settings.agent_name not in (None, agent.name):
        raise ConfigurationError(
            f"this is agent {agent.name}, and FLOTILLA_AGENT_NAME says {settings.agent_name}: "
            "set it (agent.name in the chart's values) to the name in the code"
        )
