"""Complaints settled by an agent of LangGraph.

Its model and its tools are Flotilla's: answers are bought once, tools do things once, people approve refunds.
"""

import os
from dataclasses import dataclass
from typing import Any

import httpx2
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import SecretStr

from flotilla.agent import Agent, IdempotencyKey, TaskContext

INSTRUCTIONS = "You settle complaints: look up the order, reserve a new piece, tell the customer, refund the order."
NO_KEY = SecretStr("flotilla")

agent = Agent("refunds-langgraph", version="1")


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
    """Let a graph of LangGraph settle the complaint."""
    tools = ctx.tools_for("langgraph")
    model = ChatOpenAI(
        model=ctx.model_name, api_key=NO_KEY, max_retries=0, http_async_client=ctx.openai_http_client()
    ).bind_tools(tools)

    async def clerk(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke([("system", INSTRUCTIONS), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("clerk", clerk)
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "clerk")
    graph.add_conditional_edges("clerk", tools_condition)
    graph.add_edge("tools", "clerk")
    done = await graph.compile().ainvoke({"messages": [("user", complaint.text)]})
    return Reply(text=str(done["messages"][-1].content))
