"""Approvals through a fleet's API: asked for by one person, decided by another."""

from typing import Any

import httpx

from tests.support.waiting import eventually


async def parked(client: httpx.AsyncClient, description: str) -> str:
    """The id of an action that waits for a person."""
    body = {"action": "echo", "description": description, "risk_level": "high", "args": {"text": "hello"}}
    answer = await client.post("/v1/actions", json=body)
    assert answer.status_code == 202, answer.text
    action = str(answer.json()["action_id"])
    await _waiting(client, action)
    return action


async def key_of(client: httpx.AsyncClient, person: str, *roles: str) -> str:
    """An API key of somebody else, who may decide, or has other roles."""
    body = {"name": person, "roles": roles or ["operator", "approver"], "person": True}
    answer = await client.post("/v1/keys", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["key"])


async def approve(client: httpx.AsyncClient, action: str) -> None:
    """The vote of `client`'s user, for what is shown."""
    approval = await _waiting(client, action)
    vote = {"decision": "approve", "content_hash": approval["content_hash"]}
    answer = await client.post(f"/v1/approvals/{action}/decision", json=vote)
    assert answer.status_code == 200, answer.text


async def _waiting(client: httpx.AsyncClient, action: str) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        answer = await client.get(f"/v1/approvals/{action}")
        return answer.json() if answer.status_code == 200 else None

    approval: dict[str, Any] = await eventually(found, timeout_s=120, every_s=0.5)
    return approval
