"""An agent at work in a process that is to be killed: its claims lapse soon, and it prints when it is ready."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import flotilla.agent.tool_calls
import flotilla.llm.stored_calls
import flotilla.postgres.claims
from flotilla.agent import Agent
from flotilla.agent.handler import AgentTaskHandler
from flotilla.agent.proofs import VoteCheckRules
from flotilla.agent.tools import AgentToolBox
from flotilla.approvals.policy import read_policy
from flotilla.bus import Consumer, ConsumerOptions, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetterStore
from flotilla.config.signing import load_public_keys
from flotilla.llm import LanguageModel
from flotilla.postgres import Pool


async def work(agent: Agent, model: LanguageModel | None, pool: Pool, what: dict[str, Any]) -> None:
    """Work until SIGTERM. `what` has `url`, `keys`, `name`, `min_idle_ms`, and perhaps `claim_s` and `policy`."""
    if "claim_s" in what:
        shorten_claims(what["claim_s"])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with connect_redis(what["url"]) as redis:
        handler = AgentTaskHandler(
            agent,
            pool=pool,
            redis=redis,
            tools=AgentToolBox(agent.tools),
            model=model,
            keys=load_public_keys(Path(what["keys"])),
            vote_rules=VoteCheckRules(read_policy(what.get("policy", "builtin:local"))),
        )
        options = ConsumerOptions(min_idle_ms=what["min_idle_ms"], concurrency=agent.concurrency, block_ms=100)
        letters = PostgresDeadLetterStore(pool)
        consumer = Consumer(redis, agent.stream, agent.group, what["name"], handler, options, letters)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await consumer.run(stop)


def shorten_claims(seconds: float) -> None:
    """Have claims on calls of tools and of the model lapse so soon."""
    for module in (flotilla.agent.tool_calls, flotilla.llm.stored_calls, flotilla.postgres.claims):
        module.CLAIM_S = seconds  # type: ignore[attr-defined]
