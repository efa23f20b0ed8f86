"""A person within the tenant, against a session that was not shared with them: to them it is not there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from flotilla.bus import connect_redis
from flotilla.bus.live import RunFeed
from flotilla.contracts.identity import group_name, user_name
from flotilla.postgres import Pool, Viewer, acting_as, tenant_transaction
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_live_events import following
from tests.integration.gateway.test_tokens import AUDIENCE, token
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import oidc_provider
from tests.support.operations import THINGS, operations_of
from tests.support.waiting import eventually

ALICE = user_name("flotilla", "alice")
PRIVATE = (
    THINGS
    + f"""
UPDATE flotilla.sessions SET owner = '{ALICE}', visibility = 'private';
UPDATE flotilla.dead_letters SET session_id = 'acme-session';
UPDATE audit.requests SET session_id = 'acme-session';
"""
)
BY_SESSION = {
    "session_id",
    "run_id",
    "response_id",
    "action_id",
    "approval_id",
    "order_id",
    "task_id",
    "dead_letter_id",
    "request_id",
}
"""Parts of a path that name something of a session."""
HERS = """
    sessions/acme-session runs/acme-run actions/acme-action orders/acme-order tasks/acme-task approvals/acme-action
    dead-letters/acme-letter audit/requests/acme-request
"""
NOT_HERS = {"acme-signer", "acme-stream", "acme-model", "acme-document", "acme-uri"}
"""The tenant's own, or the attacker's."""
TABLES = """
SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE a.attname = 'session_id' AND c.relkind = 'r' AND c.relnamespace::regnamespace::text = ANY($1) ORDER BY 1
"""
SCHEMAS = ["flotilla", "audit"]
_HER_ROWS = "SELECT count(*) FROM {} WHERE session_id = 'acme-session'"


@dataclass
class House:
    """Alice with a session of her own and a run in it; bob, who has every role but the operators' of all sessions."""

    gateway: RunningGateway
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    session: str
    run: str

    async def share(self, client: httpx.AsyncClient | None = None, **change: Any) -> httpx.Response:
        return await (client or self.alice).patch(f"/v1/sessions/{self.session}/access", json=change)

    async def head(self) -> int:
        return int((await self.alice.get(f"/v1/sessions/{self.session}")).json()["head_seq"])

    async def ask(self, client: httpx.AsyncClient, session: str | None = None) -> httpx.Response:
        return await client.post(f"/v1/sessions/{session or self.session}/runs", json={"query": "And then?"})


BOB = {"kind": "user", "name": "bob"}


@pytest.fixture
async def house(gateway: RunningGateway, unique: Callable[[str], str]) -> House:
    alice = await gateway.client_of("alice", "operator", person=True)
    bob = await gateway.client_of("bob", "operator", "viewer", person=True)
    session = unique("hers")
    started = await alice.post(f"/v1/sessions/{session}/runs", json={"query": "What do we pay the harbour master?"})
    return House(gateway, alice, bob, session, started.json()["run_id"])


async def test_every_operation_of_the_document_hides_what_is_not_shared(gateway: RunningGateway) -> None:
    await gateway.as_superuser(PRIVATE)
    alice = await gateway.client_of("alice", "viewer", "operator", person=True)
    bob = await gateway.client_of("bob", "viewer", "operator", person=True)
    document = (await gateway.client().get("/openapi.json")).json()
    operations = [
        one for one in operations_of(document) if "security" in document["paths"][one.path][one.method.lower()]
    ]
    hidden = 0
    before = await her_things(gateway)
    for operation in sorted(operations, key=lambda one: one.method):
        answer = await operation.call(bob)
        where = (operation.name, answer.status_code)
        names = {part.strip("{}") for part in operation.path.split("/") if part.startswith("{")} | operation.query
        if answer.status_code == 403:
            assert {"operator", "viewer"}.isdisjoint(
                document["paths"][operation.path][operation.method.lower()]["x-roles"]
            ), where
        elif (BY_SESSION & names and "{" in operation.path) or operation.path in (
            "/v1/audit/verify",
            "/v1/audit/export",
        ):
            assert answer.status_code == 404, (where, answer.text)
            hidden += 1
        else:
            assert answer.status_code < 500, where
            text = answer.text
            for own in NOT_HERS:
                text = text.replace(own, "")
            assert "acme-" not in text, (where, text)
    assert hidden > 25
    assert await her_things(gateway) == before
    for thing in HERS.split():
        assert (await alice.get(f"/v1/{thing}")).status_code == 200, thing


async def her_things(gateway: RunningGateway) -> dict[str, Any]:
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        tables = [row[0] for row in await connection.fetch(TABLES, SCHEMAS)]
        return {
            table: await connection.fetch(f"SELECT t::text FROM {table} AS t WHERE session_id = 'acme-session'")
            for table in tables
        }
    finally:
        await connection.close()


ADDED = """
INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, sources)
VALUES ('acme', 'i', 'u', 'acme-session', 'r', 'q', 'a', '[]')
"""


async def seen_by(pool: Pool, viewer: Viewer) -> tuple[int, bool]:
    """How many of her rows the viewer sees, and whether one can be added."""
    tables = [row[0] for row in await pool.fetch(TABLES, SCHEMAS)]
    assert len(tables) > 20
    with acting_as(viewer):
        async with tenant_transaction(pool, "acme") as connection:
            rows = sum([await connection.fetchval(_HER_ROWS.format(table)) for table in tables])
        try:
            async with tenant_transaction(pool, "acme") as connection:
                await connection.execute(ADDED)
        except asyncpg.InsufficientPrivilegeError:
            return rows, False
    return rows, True


async def test_the_database_hides_it_from_every_statement(gateway: RunningGateway, pool: Pool) -> None:
    await gateway.as_superuser(PRIVATE)
    bob = Viewer(names=[user_name("flotilla", "bob"), group_name("flotilla", "alice")], roles=["operator", "viewer"])
    impostor = Viewer(names=[user_name("https://login.example.com", "alice")])
    for viewer in (bob, impostor, Viewer()):
        assert await seen_by(pool, viewer) == (0, False)
    rows, added = await seen_by(pool, Viewer(names=[ALICE]))
    assert (rows > 8, added) == (True, True)


async def test_every_table_that_names_a_session_is_limited_to_people(pool: Pool) -> None:
    limited = {
        row[0]
        for row in await pool.fetch(
            "SELECT polrelid::regclass::text FROM pg_policy WHERE polname LIKE 'people%' AND NOT polpermissive"
        )
    }
    assert {row[0] for row in await pool.fetch(TABLES, [*SCHEMAS, "audit_next"])} <= limited


async def test_an_id_that_exists_answers_as_one_that_does_not(house: House) -> None:
    for path in (
        "sessions/{}",
        "sessions/{}/events",
        "sessions/{}/access",
        "runs/{}",
        "runs/{}/events",
        "runs/{}/steps",
    ):
        hers = house.run if path.startswith("runs") else house.session
        found, absent = [await house.bob.get(f"/v1/{path.format(one)}") for one in (hers, "no-such-id")]
        assert (found.status_code, absent.status_code) == (404, 404), path
        assert found.json()["detail"].replace(hers, "no-such-id") == absent.json()["detail"]


async def test_nothing_is_started_stopped_or_forked_in_it(house: House) -> None:
    head = await house.head()
    session = f"/v1/sessions/{house.session}"
    attempts = [
        await house.ask(house.bob),
        await house.bob.post(f"{session}/fork", json={"at_seq": 1}),
        await house.bob.post(f"{session}/rollback", json={"to_seq": 0}),
        await house.bob.post(f"/v1/runs/{house.run}/cancel"),
        await house.bob.post("/v1/sessions", json={"session_id": house.session}),
        await house.bob.post(
            "/v1/actions",
            json={"action": "echo", "description": "x", "args": {"text": "x"}, "session_id": house.session},
        ),
        await house.bob.post("/v1/tasks", json={"steps": ["research"], "input": {}, "session_id": house.session}),
        await house.bob.post(
            "/v1/orders",
            json={"order_id": "o-1", "user_id": "u", "amount": "1", "product_id": "p", "session_id": house.session},
        ),
        await house.share(house.bob, add_readers=[BOB]),
        await house.share(house.bob, owner={"subject": "bob"}),
    ]
    assert [attempt.status_code for attempt in attempts] == [404] * len(attempts), [one.text for one in attempts]
    assert await house.head() == head
    assert (await house.alice.get(f"/v1/runs/{house.run}")).json()["status"] == "pending"


async def test_no_filter_of_a_listing_finds_it(house: House) -> None:
    filters: list[tuple[str, dict[str, str]]] = [
        ("runs", {"session_id": house.session}),
        ("runs", {"user_id": "alice"}),
        ("runs", {"status": "pending"}),
        ("sessions", {"q": house.session}),
        ("sessions", {}),
        ("analytics/tools", {"session_id": house.session}),
    ]
    for path, params in filters:
        answer = await house.bob.get(f"/v1/{path}", params=params)
        assert answer.status_code == 200
        assert house.session not in answer.text.replace(str(answer.url), "")
        assert house.run not in answer.text
    assert house.run in (await house.alice.get("/v1/runs", params={"session_id": house.session})).text


async def test_a_reader_reads_and_no_more(house: House) -> None:
    assert (await house.share(add_readers=[BOB])).status_code == 200
    assert (await house.bob.get(f"/v1/runs/{house.run}")).status_code == 200
    access = (await house.bob.get(f"/v1/sessions/{house.session}/access")).json()
    assert (access["may_write"], access["may_share"], access["owner"]["name"]) == (False, False, "alice")
    cancel = await house.bob.post(f"/v1/runs/{house.run}/cancel")
    await house.gateway.finish(house.run)
    head = await house.head()
    attempts = [
        cancel,
        await house.ask(house.bob),
        await house.bob.post(f"/v1/sessions/{house.session}/rollback", json={"to_seq": 0}),
        await house.bob.post(
            "/v1/actions",
            json={"action": "echo", "description": "x", "args": {"text": "x"}, "session_id": house.session},
        ),
        await house.share(house.bob, add_writers=[BOB]),
    ]
    assert [attempt.status_code for attempt in attempts] == [403] * len(attempts), [one.text for one in attempts]
    assert await house.head() == head


async def test_a_writer_asks_and_can_not_share(house: House) -> None:
    await house.share(add_writers=[BOB])
    await house.gateway.finish(house.run)
    asked = await house.ask(house.bob)
    assert asked.status_code == 202
    assert (await house.alice.get(f"/v1/runs/{asked.json()['run_id']}")).json()["user_id"] == "bob"
    assert (await house.share(house.bob, visibility="tenant")).status_code == 403
    with acting_as(Viewer(names=[user_name("flotilla", "bob")])), pytest.raises(asyncpg.InsufficientPrivilegeError):
        await house.gateway.rows(
            "UPDATE flotilla.sessions SET visibility = 'tenant' WHERE session_id = $1", house.session
        )


async def test_a_fork_is_lost_with_the_access_to_what_it_begins_with(house: House) -> None:
    await house.share(add_readers=[BOB])
    fork = (await house.bob.post(f"/v1/sessions/{house.session}/fork", json={"at_seq": 1})).json()["session_id"]
    events = f"/v1/sessions/{fork}/events"
    assert "harbour master" in (await house.bob.get(events)).text
    assert (await house.alice.get(events)).status_code == 200
    again = (await house.bob.post(f"/v1/sessions/{fork}/fork", json={"at_seq": 1})).json()["session_id"]
    assert (await house.share(remove=[BOB])).status_code == 200
    for session in (fork, again):
        assert (await house.bob.get(f"/v1/sessions/{session}/events")).status_code == 404
        assert (await house.bob.get(f"/v1/sessions/{session}/state")).status_code == 404
        assert (await house.ask(house.bob, session)).status_code == 404


@pytest.fixture
async def redis_feed(redis_url: str) -> AsyncIterator[RunFeed]:
    async with connect_redis(redis_url) as redis:
        yield RunFeed(redis)


async def test_an_open_stream_ends_with_the_access(house: House, redis_feed: RunFeed) -> None:
    await house.share(add_readers=[BOB])
    live = await house.gateway.live(house.run)
    async with following(house.bob, house.run) as his, following(house.alice, house.run) as hers:
        await redis_feed.token(live, "public ", task_id="t", attempt=1)
        await eventually(lambda: "public " in his.text and "public " in hers.text, timeout_s=10)
        await house.share(remove=[BOB])
        await eventually(lambda: his.closed, timeout_s=5)
        await redis_feed.token(live, "secret", task_id="t", attempt=1)
        await eventually(lambda: "secret" in hers.text, timeout_s=10)
    assert ("secret" in his.text, "done" in his.kinds) == (False, False)
    assert (await house.bob.get(f"/v1/runs/{house.run}/events")).status_code == 404


APPROVAL = """
INSERT INTO flotilla.approvals (tenant_id, approval_id, session_id, workflow_id, action, description, args,
    content_hash, risk_level, reasons, requested_by, requirement, policy_version, quorum, deadline_at)
VALUES ('acme', 'pay', '{}', 'no-such-workflow', 'echo', 'Pay', '{{"text": "pay"}}', '{}', 'high', '{{}}', 'alice',
    '{{"required": true, "risk_level": "high", "reasons": [], "policy_version": "1", "roles": ["approver"]}}', '1', 1,
    now() + interval '1 hour')
"""


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


async def test_operators_of_all_sessions_see_it_and_hand_it_over(house: House) -> None:
    root = await house.gateway.client_of("root", "admin")
    assert (await root.get(f"/v1/runs/{house.run}")).status_code == 200
    assert (await house.share(root, owner={"subject": "bob"})).status_code == 200
    assert (await house.share(house.alice, remove=[BOB])).status_code == 403
    assert (await house.share(house.bob, remove=[{"name": "alice"}])).status_code == 200
    assert (await house.alice.get(f"/v1/sessions/{house.session}")).status_code == 404
    events = (await house.bob.get(f"/v1/sessions/{house.session}/events")).json()["events"]
    told = [(one["source"], one["data"]["change"], one["data"]["details"]["by"]) for one in events[-3:]]
    assert told == [
        ("/gateway", "owner_changed", "root"),
        ("/gateway", "access_changed", "root"),
        ("/gateway", "access_changed", "bob"),
    ]


async def test_a_session_of_the_former_version_stays_the_tenants_until_it_has_an_owner(gateway: RunningGateway) -> None:
    await gateway.as_superuser(THINGS)
    bob, root = await gateway.client_of("bob", "operator"), await gateway.client_of("root", "admin")
    path = "/v1/sessions/acme-session/access"
    access = (await bob.get(path)).json()
    assert (access["owner"], access["visibility"], access["may_share"]) == (None, "tenant", False)
    assert (await bob.patch(path, json={"owner": {"subject": "bob"}})).status_code == 403
    assert (await root.patch(path, json={"visibility": "private"})).status_code == 422
    closed = await root.patch(path, json={"visibility": "private", "owner": {"subject": "olga"}})
    assert closed.status_code == 200
    assert (await bob.get("/v1/runs/acme-run")).status_code == 404


async def test_a_team_that_shares_has_it_by_a_setting(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(session_visibility="tenant", session_operators=()) as gateway:
        alice, bob = await gateway.client_of("alice", "operator"), await gateway.client_of("bob", "operator")
        root, session = await gateway.client_of("root", "admin"), unique("s")
        await alice.post("/v1/sessions", json={"session_id": session})
        assert (await bob.post(f"/v1/sessions/{session}/runs", json={"query": "q"})).status_code == 202
        await alice.patch(f"/v1/sessions/{session}/access", json={"visibility": "private"})
        for client in (bob, root):
            assert (await client.get(f"/v1/sessions/{session}")).status_code == 404


async def test_groups_are_the_tokens_and_a_name_counts_with_its_issuer(
    replica: Replica, unique: Callable[[str], str]
) -> None:
    with oidc_provider() as provider:
        async with replica(
            oidc_issuer=provider.url, oidc_audience=AUDIENCE, oidc_groups_claim="realm.groups"
        ) as gateway:

            def person(subject: str, *groups: object) -> httpx.AsyncClient:
                return gateway.client(token(provider, sub=subject, roles=["operator"], realm={"groups": list(groups)}))

            session, group = unique("s"), {"kind": "group", "name": "support"}
            alice = person("alice")
            await alice.post("/v1/sessions", json={"session_id": session})
            path = f"/v1/sessions/{session}"
            assert (await alice.patch(f"{path}/access", json={"add_readers": [group]})).status_code == 200
            assert (await person("sue", "sales", "support").get(path)).status_code == 200
            outside = [
                person("bob", "sales"),
                person("support"),
                person("eve", ["support"], {"support": 1}, " support", "suppor\u200bt"),
                await gateway.client_of("alice", "operator", person=True),
                await gateway.client_of("support", "operator"),
            ]
            answers = await asyncio.gather(*(client.get(path) for client in outside))
            assert [answer.status_code for answer in answers] == [404] * len(outside)


async def test_names_that_hide_something_are_refused(house: House) -> None:
    for name in ("", " bob", "bob\u202e", "b\u200bob", "bob\n", "b" * 257, "bob\x00"):
        assert (await house.share(add_readers=[{"name": name}])).status_code == 422, name
    crowd = [{"name": f"n{number}"} for number in range(100)]
    assert (await house.share(add_readers=crowd)).status_code == 200
    assert (await house.share(add_readers=[BOB])).status_code == 422
    odd = [{"name": "group/flotilla/x", "issuer": "https://a/b%2Fc"}]
    access = (await house.share(remove=crowd, add_writers=odd)).json()
    assert [(one["issuer"], one["name"]) for one in access["writers"]] == [("https://a/b%2Fc", "group/flotilla/x")]
