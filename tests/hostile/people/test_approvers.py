"""An approver sees what is to be decided, what came of it, and nothing else of the session."""

from typing import Any

import httpx
import pytest

from tests.hostile.people.house import House

APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
VALUES ('acme', 'pay', '{}', 'no-such-workflow', 'echo', 'Pay', '{{"text": "pay"}}', '{}', 'high', '{{}}', 'alice',
    '{{"required": true, "risk_level": "high", "reasons": [], "policy_version": "1", "roles": ["approver"]}}', '1', 1,
    now() + interval '1 hour')
"""
ACTION = """
INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level,
    requested_by, status, result, error, request, finished_at)
VALUES ('acme', 'pay', '{}', 'w', 'echo', 'Pay', '{{}}', 'high', 'alice', '{}', {}, {}, '{{}}', now())
"""
DECIDED = """
UPDATE flotilla.approvals SET status = 'approved',
    votes = '[{"subject": "carol", "decision": "approve", "content_hash": "h"},
              {"subject": "%2F", "decision": "edit", "content_hash": "h"}]'
"""
PAID = ("completed", "'{\"paid\": 5}'", "NULL")
FAILED = ("failed", "NULL", '\'{"type": "Refused"}\'')


async def test_an_approver_sees_what_is_to_be_decided_and_nothing_else(house: House) -> None:
    await house.gateway.as_superuser(APPROVAL.format(house.session, "0" * 64))
    carol = await house.gateway.client_of("carol", "approver", "operator", person=True)
    for client, seen in ((carol, 200), (house.alice, 200), (house.bob, 404)):
        assert (await client.get("/v1/approvals/pay")).status_code == seen
        listed = (await client.get("/v1/approvals")).json()["approvals"]
        assert [one["approval_id"] for one in listed] == (["pay"] if seen == 200 else [])
    head = await house.head()
    vote = {"decision": "approve", "content_hash": "0" * 64}
    assert (await house.bob.post("/v1/approvals/pay/decision", json=vote)).status_code == 404
    assert await house.head() == head
    await carol.post("/v1/approvals/pay/decision", json=vote)
    changes = [
        event["data"].get("change")
        for event in (await house.alice.get(f"/v1/sessions/{house.session}/events")).json()["events"]
    ]
    assert changes.count("approval_attempted") == 1
    for path in (f"sessions/{house.session}", f"sessions/{house.session}/events", f"runs/{house.run}"):
        assert (await carol.get(f"/v1/{path}")).status_code == 404
    assert (await house.ask(carol)).status_code == 404


@pytest.mark.parametrize("action", [PAID, FAILED], ids=["result", "failure"])
async def test_an_approver_sees_what_came_of_it_and_nothing_else(house: House, action: tuple[str, str, str]) -> None:
    await house.gateway.as_superuser(APPROVAL.format(house.session, "0" * 64), ACTION.format(house.session, *action))
    clients = {name: await house.gateway.client_of(name, "approver", person=True) for name in ("carol", "dave", "/")}
    lost = await house.gateway.client_of("carol", "operator")
    globex = await house.gateway.client_of("carol", "approver", tenant="globex", person=True)

    async def outcome(client: httpx.AsyncClient) -> Any:
        return (await client.get("/v1/approvals/pay")).json()["outcome"]

    assert await outcome(clients["carol"]) is None
    await house.gateway.as_superuser(DECIDED)
    for client in (clients["carol"], house.alice):
        seen = await outcome(client)
        assert seen.pop("finished_at")
        result, error = {PAID: ({"paid": 5}, None), FAILED: (None, {"type": "Refused"})}[action]
        assert seen == {"status": action[0], "result": result, "error": error}
        (listed,) = (await client.get("/v1/approvals?status=approved")).json()["approvals"]
        assert (listed["outcome"]["status"], listed["outcome"]["result"]) == (action[0], None)
    # Who may decide and did not, has another name, tenant or no such role any more.
    assert [await outcome(clients[name]) for name in ("dave", "/")] == [None, None]
    assert [(await client.get("/v1/approvals/pay")).status_code for client in (lost, globex, house.bob)] == [404] * 3
    for path in ("actions/pay", f"sessions/{house.session}", f"sessions/{house.session}/events", f"runs/{house.run}"):
        assert (await clients["carol"].get(f"/v1/{path}")).status_code == 404
    assert (await clients["carol"].get("/v1/actions")).json()["actions"] == []
