"""Actions, approvals, orders and tasks through the API, with the real workflow worker behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from flotilla.bus import connect_redis
from flotilla.contracts.names import task_stream
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import running_worker

CHANGES = """
SELECT convert_from(body, 'UTF8')::jsonb -> 'data' AS data FROM flotilla.event_outbox WHERE session_id = $1 ORDER BY seq
"""


@dataclass
class House:
    """Two people, one service, and others that a test needs."""

    gateway: RunningGateway
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    overseer: httpx.AsyncClient
    """Sees every session."""

    async def submitted(self, by: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
        """An action that waits for a decision."""
        body = {"action": "echo", "description": "A trial", "risk_level": "high", "args": {"text": "hello"}, **more}
        answer = await by.post("/v1/actions", json=body)
        assert answer.status_code == 202, answer.text
        action_id = answer.json()["action_id"]

        async def waiting() -> dict[str, Any] | None:
            found = await by.get(f"/v1/approvals/{action_id}")
            return found.json() if found.status_code == 200 else None

        approval: dict[str, Any] = await eventually(waiting, timeout_s=20)
        return approval

    async def ended(self, action_id: str) -> dict[str, Any]:
        async def over() -> dict[str, Any] | None:
            action = (await self.overseer.get(f"/v1/actions/{action_id}")).json()
            return action if action["finished_at"] else None

        action: dict[str, Any] = await eventually(over, timeout_s=20)
        return action


async def vote(
    client: httpx.AsyncClient, approval: dict[str, Any], decision: str = "approve", **more: Any
) -> httpx.Response:
    body = {"decision": decision, "content_hash": approval["content_hash"], **more}
    return await client.post(f"/v1/approvals/{approval['approval_id']}/decision", json=body)


@pytest.fixture
async def house(gateway: RunningGateway, redis_url: str, temporal_address: str) -> AsyncIterator[House]:
    worker = running_worker(
        dsn=gateway.database.dsn("flotilla_worker"),
        pool=gateway.pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=gateway.settings.task_queue,
    )
    async with worker:
        alice = await gateway.client_of("alice", "operator", "approver", person=True)
        bob = await gateway.client_of("bob", "operator", "approver", person=True)
        yield House(gateway, alice, bob, await gateway.client_of("root", "admin"))


async def test_an_action_waits_for_somebody_else_and_then_runs(house: House) -> None:
    approval = await house.submitted(house.alice)
    assert (approval["requested_by"], approval["args"], approval["status"]) == ("alice", {"text": "hello"}, "pending")
    inbox = (await house.bob.get("/v1/approvals", params={"status": "pending"})).json()["approvals"]
    assert [waiting["approval_id"] for waiting in inbox] == [approval["approval_id"]]
    assert (await house.bob.get("/v1/approvals/count")).json() == {"pending": 1}

    own = await vote(house.alice, approval)
    assert (own.status_code, own.json()["code"]) == (403, "self_approval")

    first = await vote(house.bob, approval, reason="looks good")
    assert first.status_code == 200, first.text
    assert (first.json()["approval_status"], first.json()["subject"]) == ("approved", "bob")
    again = await vote(house.bob, approval, reason="looks good")
    assert (again.status_code, again.json()) == (200, first.json())

    action = await house.ended(approval["approval_id"])
    assert (action["status"], action["approval_status"], action["result"]["text"]) == ("completed", "approved", "hello")
    assert [ballot["subject"] for ballot in action["votes"]] == ["bob"]
    late = await vote(house.bob, approval, "reject", reason="changed my mind")
    assert (late.status_code, late.json()["code"]) == (409, "already_decided")
    assert (await house.bob.get("/v1/approvals/count")).json() == {"pending": 0}


async def test_every_attempt_is_an_event_with_who_and_what_was_shown(house: House) -> None:
    approval = await house.submitted(house.alice)
    viewer = await house.gateway.client_of("vera", "viewer", person=True)
    robot = await house.gateway.client_of("robot", "operator", "approver")
    reader = {"add_readers": [{"name": "vera"}]}
    assert (await house.alice.patch(f"/v1/sessions/{approval['session_id']}/access", json=reader)).status_code == 200
    refusals = [(house.alice, "self_approval"), (viewer, "wrong_role"), (robot, "not_a_person")]
    for client, code in refusals:
        answer = await vote(client, approval)
        assert (answer.status_code, answer.json()["code"]) == (403, code)
    stale = await vote(house.bob, {**approval, "content_hash": "0" * 64})
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_hash")
    rows = await house.gateway.rows(CHANGES, approval["session_id"])
    changes = [json.loads(row["data"]) for row in rows]
    attempted = [c["details"]["subject"] for c in changes if c["change"] == "approval_attempted"]
    refused = [(c["details"]["subject"], c["details"]["refusal"]) for c in changes if c["change"] == "approval_refused"]
    assert attempted == ["alice", "vera", "robot", "bob"]
    expected = [("alice", "SelfApproval"), ("vera", "WrongRole"), ("robot", "NotAPerson"), ("bob", "StaleHash")]
    assert refused == expected
    policy = [c["details"]["policy_version"] for c in changes if c["change"] == "approval_attempted"]
    assert set(policy) == {approval["policy_version"]}
    outcomes = await house.gateway.rows("SELECT outcome FROM flotilla.approval_decisions")
    assert [row["outcome"] for row in outcomes] == ["refused"] * 4


async def test_votes_in_the_same_instant_have_one_outcome(house: House) -> None:
    approval = await house.submitted(house.alice)
    carol = await house.gateway.client_of("carol", "approver", person=True)
    answers = await asyncio.gather(vote(house.bob, approval), vote(carol, approval, "reject", reason="no"))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    counted = next(answer.json() for answer in answers if answer.status_code == 200)
    action = await house.ended(approval["approval_id"])
    assert action["approval_status"] == counted["approval_status"]
    assert action["status"] == ("completed" if counted["decision"] == "approve" else "rejected")


async def test_a_vote_after_the_deadline_is_refused_with_that_reason(house: House, temporal_client: Client) -> None:
    approval = await house.submitted(house.alice)
    await temporal_client.get_workflow_handle(approval["workflow_id"]).terminate()
    await house.gateway.rows("UPDATE flotilla.approvals SET status = 'timeout' RETURNING 1")
    late = await vote(house.bob, approval)
    assert (late.status_code, late.json()["code"]) == (409, "late")
    assert approval["deadline_at"][:19] in late.json()["detail"]


async def test_an_edit_makes_a_new_hash_that_somebody_else_must_approve(house: House) -> None:
    approval = await house.submitted(house.alice)
    edited = await vote(house.bob, approval, "edit", args={"text": "better"})
    assert edited.status_code == 200, edited.text
    assert edited.json()["content_hash"] != approval["content_hash"]
    now = (await house.bob.get(f"/v1/approvals/{approval['approval_id']}")).json()
    assert (now["args"], now["content_hash"]) == ({"text": "better"}, edited.json()["content_hash"])
    own = await vote(house.bob, now)
    assert (own.status_code, own.json()["code"]) == (403, "own_edit")
    carol = await house.gateway.client_of("carol", "approver", person=True)
    assert (await vote(carol, now)).status_code == 200
    assert (await house.ended(approval["approval_id"]))["result"]["text"] == "better"


async def test_forged_and_unfit_votes_are_422(house: House) -> None:
    approval = await house.submitted(house.alice)
    for more in (
        {"reviewer": "carol"},
        {"subject": "carol"},
        {"args": {"text": "x"}},
        {"decision": "edit"},
        {"content_hash": "short"},
        {"reason": ""},
    ):
        answer = await vote(house.bob, approval, **more)
        assert answer.status_code == 422, (more, answer.text)
    no_reason = await vote(house.bob, approval, "reject")
    assert (no_reason.status_code, no_reason.json()["code"]) == (422, "reason_required")


async def test_low_risk_runs_at_once_and_policy_says_what_is_low(house: House) -> None:
    answer = await house.alice.post("/v1/actions", json={"action": "echo", "description": "d", "args": {"text": "hi"}})
    assert (answer.status_code, answer.json()["risk_level"]) == (202, "low")
    action = await house.ended(answer.json()["action_id"])
    assert (action["status"], action["approval_status"]) == ("completed", "not_required")
    risky = {"action": "http_request", "description": "d", "risk_level": "low",
             "args": {"method": "POST", "url": "http://example.com/"}}  # fmt: skip
    raised = await house.alice.post("/v1/actions", json=risky)
    assert raised.json()["risk_level"] == "high"


async def test_bad_actions_are_422_and_leave_nothing(house: House) -> None:
    change: Any
    good = {"action": "echo", "description": "d", "args": {"text": "x"}}
    for change in ({"args": {}}, {"args": {"text": 5}}, {"args": {"text": "x", "more": 1}}, {"risk_level": "none"},
                   {"requested_by": "bob"}, {"description": " "}, {"args": []}):  # fmt: skip
        answer = await house.alice.post("/v1/actions", json={**good, **change})
        assert answer.status_code == 422, (change, answer.text)
    assert await house.gateway.rows("SELECT 1 FROM flotilla.actions") == []


async def test_without_a_worker_a_vote_is_503_and_safe_to_repeat(
    replica: Replica, redis_url: str, temporal_address: str
) -> None:
    async with replica() as gateway:
        alice = await gateway.client_of("alice", "operator", person=True)
        bob = await gateway.client_of("bob", "approver", person=True)
        worker = {
            "dsn": gateway.database.dsn("flotilla_worker"),
            "pool": gateway.pool,
            "redis_url": redis_url,
            "temporal_address": temporal_address,
            "task_queue": gateway.settings.task_queue,
        }
        async with running_worker(**worker):  # type: ignore[arg-type]
            approval = await House(gateway, alice, bob, alice).submitted(alice)
        unanswered = await vote(bob, approval)
        assert (unanswered.status_code, unanswered.headers["Retry-After"]) == (503, "1")
        async with running_worker(**worker):  # type: ignore[arg-type]
            assert (await vote(bob, approval)).json()["approval_status"] == "approved"
        counted = await gateway.rows("SELECT 1 FROM flotilla.approval_decisions WHERE outcome = 'counted'")
        assert len(counted) == 1


async def test_orders_are_placed_once_and_shown_with_their_steps(house: House, unique: Callable[[str], str]) -> None:
    await house.gateway.rows(
        "INSERT INTO flotilla.accounts (tenant_id, user_id, currency, available_minor) "
        "VALUES ('acme', 'erin', 'EUR', 100000) RETURNING 1"
    )
    order = {"order_id": unique("o"), "user_id": "erin", "amount": "12.50", "product_id": "p-1"}
    placed = await house.alice.post("/v1/orders", json=order)
    assert (placed.status_code, placed.json()["status"]) == (202, "pending")
    assert (await house.alice.post("/v1/orders", json=order)).status_code == 202
    other = await house.alice.post("/v1/orders", json={**order, "amount": "99.00"})
    assert (other.status_code, other.json()["code"]) == (409, "order_exists")

    async def over() -> dict[str, Any] | None:
        found = (await house.alice.get(f"/v1/orders/{order['order_id']}")).json()
        return found if found["status"] != "pending" else None

    done: dict[str, Any] = await eventually(over, timeout_s=20)
    assert (done["status"], done["amount"], done["currency"]) == ("approved", "12.50", "EUR")
    assert done["confirmation"]
    assert [step["status"] for step in done["steps"]] == ["done"] * len(done["steps"])
    assert done["steps"]
    refused = await house.alice.post(f"/v1/orders/{order['order_id']}/steps/1/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_parked")
    for verb in ("skip", "resolve"):
        answer = await house.alice.post(f"/v1/orders/{order['order_id']}/steps/1/{verb}", json={})
        assert answer.status_code == 422


WAITS = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, task_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
VALUES ('acme', $1, $2, 'w', $3, 'a', 'd', '{}', 'h', 'high', '{}', '/agents/a', '{}', 'v', 1, now() + interval '1 day')
"""


async def test_a_task_is_started_once_for_its_key_and_followed(
    house: House, redis_url: str, unique: Callable[[str], str]
) -> None:
    agent, key = unique("agent"), {"Idempotency-Key": unique("key")}
    body = {"steps": [agent], "input": {"text": "hi"}}
    async with connect_redis(redis_url) as redis:
        refused = await house.alice.post("/v1/tasks", json=body, headers=key)
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_agent")
        assert "research, write" in refused.json()["detail"]
        assert not await redis.exists(task_stream(agent))
        await redis.xgroup_create(task_stream(agent), f"{agent}-agents", "0", mkstream=True)
    answers = [await house.alice.post("/v1/tasks", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    task = answers[0].json()
    async with connect_redis(redis_url) as redis:
        await eventually(lambda: redis.xlen(task_stream(agent)), timeout_s=20)
    running = (await house.alice.get(f"/v1/tasks/{task['task_id']}")).json()
    assert (running["status"], running["result"]) == ("running", None)
    vote = unique("vote")
    await house.gateway.rows(WAITS, vote, task["session_id"], task["task_id"])
    waiting = (await house.alice.get(f"/v1/tasks/{task['task_id']}")).json()
    assert waiting["status"] == "waiting_for_approval"
    await house.gateway.rows("UPDATE flotilla.approvals SET status = 'approved' WHERE approval_id = $1", vote)
    assert (await house.alice.get(f"/v1/tasks/{task['task_id']}")).json()["status"] == "running"
    await house.gateway.rows(
        "UPDATE flotilla.agent_tasks SET status = 'done', result = '{\"text\": \"done\"}', finished_at = now() "
        "WHERE task_id = $1 RETURNING 1",
        task["task_id"],
    )
    done = (await house.alice.get(f"/v1/tasks/{task['task_id']}")).json()
    assert (done["status"], done["result"]) == ("success", {"text": "done"})


async def key_by(admin: httpx.AsyncClient, name: str, *, person: bool) -> httpx.Response:
    return await admin.post("/v1/keys", json={"name": name, "roles": ["operator", "approver"], "person": person})


async def test_an_admin_does_not_approve_in_another_name(house: House) -> None:
    ada = await house.gateway.client_of("ada", "admin", "operator", "approver", person=True)
    for person in (True, False):
        taken = await key_by(ada, "bob", person=person)
        assert (taken.status_code, "only bob makes further keys" in taken.text) == (403, True)
    eve = house.gateway.client((await key_by(ada, "eve", person=True)).json()["key"])
    robot = house.gateway.client((await key_by(ada, "robot", person=False)).json()["key"])
    assert (await key_by(ada, "robot", person=True)).status_code == 403
    own = await house.submitted(ada)
    by_robot = await house.submitted(robot)
    for voter, approval in ((eve, own), (ada, by_robot), (eve, by_robot), (ada, own)):
        refused = await vote(voter, approval)
        assert (refused.status_code, refused.json()["code"]) == (403, "self_approval")
    for approval in (own, by_robot):
        assert (await vote(house.bob, approval)).status_code == 200
        assert (await house.ended(approval["approval_id"]))["status"] == "completed"
    changes = await house.gateway.rows(CHANGES, own["session_id"])
    attempts = [json.loads(row["data"]) for row in changes]
    issuers = [one["details"].get("issued_by") for one in attempts if one.get("change") == "approval_refused"]
    assert ["ada"] in issuers


async def test_an_argument_that_is_left_out_is_assessed_and_shown_with_its_default(house: House) -> None:
    approval = await house.submitted(
        house.alice, action="http_request", args={"method": "GET", "url": "https://example.com/x"}
    )
    assert approval["args"] == {"method": "GET", "url": "https://example.com/x", "json": None}


async def test_a_number_that_would_not_be_shown_as_it_is_is_refused(house: House) -> None:
    args = {"method": "POST", "url": "https://example.com/x", "json": {"amount": 1e22}}
    body = {"action": "http_request", "description": "pay", "args": args}
    refused = await house.alice.post("/v1/actions", json=body)
    assert refused.status_code == 422
    assert "args.json.amount: 1e+22 is beyond 64 bits" in refused.text


async def test_a_policy_that_changes_holds_without_a_restart(replica: Replica, tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('version = "1"\ndefaults.roles = ["approver"]\nactions.echo.risk = "low"\n')
    async with replica(approval_policy=str(file)) as gateway:
        operator = await gateway.client_of("olga", "operator")

        async def risk() -> str:
            body = {"action": "echo", "description": "A trial", "risk_level": "low", "args": {"text": "a"}}
            level: str = (await operator.post("/v1/actions", json=body)).json()["risk_level"]
            return level

        assert await risk() == "low"
        file.write_text('version = "2"\ndefaults.roles = ["approver"]\nactions.echo.risk = "high"\n# end\n')

        async def is_high() -> bool:
            return await risk() == "high"

        await eventually(is_high, timeout_s=20)
        file.write_text("version = ")
        assert await risk() == "high"
