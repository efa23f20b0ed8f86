"""Complaints settled by an agent of openai-agents.

Its model and its tools are Flotilla's: answers are bought once, tools do things once, people approve refunds.
"""

import os
from dataclasses import dataclass
from typing import Any

import httpx2
from agents import Agent as FrameworkAgent
from agents import OpenAIChatCompletionsModel, RunConfig, Runner

from flotilla.agent import Agent, IdempotencyKey, TaskContext

INSTRUCTIONS = "You settle complaints: look up the order, reserve a new piece, tell the customer, refund the order."

agent = Agent("refunds-openai-agents", version="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a customer wrote."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What was done about it, in a sentence."""

    text: str


@agent.tool(repeatable=True)
async def find_order(order: str) -> dict[str, Any]:
    """Look up an order: its product, and its price in cents."""
    return await shop("GET", f"orders/{order}")


@agent.tool
async def reserve(product: str, key: IdempotencyKey) -> str:
    """Reserve a new piece of a product."""
    return str((await shop("POST", "reservations", {"product": product}, key))["receipt"])


@agent.tool
async def write_to_customer(order: str, text: str, key: IdempotencyKey) -> str:
    """Send a message to the customer who ordered."""
    return str((await shop("POST", "messages", {"order": order, "text": text}, key))["receipt"])


@agent.tool(approval="medium")
async def refund(order: str, cents: int, key: IdempotencyKey) -> str:
    """Pay money back. People approve each refund."""
    return str((await shop("POST", "refunds", {"order": order, "cents": cents}, key))["receipt"])


async def shop(method: str, path: str, given: dict[str, Any] | None = None, key: str = "") -> dict[str, Any]:
    """Ask the shop; it does what it is asked once per key.

    Raises:
        ValueError: it refuses, and did nothing.
    """
    async with httpx2.AsyncClient(base_url=os.environ.get("SHOP_URL", "http://127.0.0.1:8901")) as client:
        answer = await client.request(method, path, json=given, headers={"Idempotency-Key": key})
    if answer.is_client_error:
        raise ValueError(f"{path}: {answer.json()['error']}")
    answer.raise_for_status()
    return dict(answer.json())


@agent.task
async def settle(ctx: TaskContext, complaint: Complaint) -> Reply:
    """Let an agent of openai-agents settle the complaint; what it says is shown while it is written."""
    clerk: FrameworkAgent[None] = FrameworkAgent(
        name="clerk",
        instructions=INSTRUCTIONS,
        model=OpenAIChatCompletionsModel(model=ctx.model_name, openai_client=ctx.openai()),
        tools=ctx.tools_for("openai-agents"),
    )
    run = Runner.run_streamed(clerk, complaint.text, run_config=RunConfig(tracing_disabled=True))
    async for _event in run.stream_events():
        pass
    return Reply(text=str(run.final_output))
