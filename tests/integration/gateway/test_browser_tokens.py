"""Browser tokens: what they open, what they never do, and which pages may use them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from flotilla.contracts.names import AUDIT_SESSION
from flotilla.contracts.session_events import AgentStateEvent
from flotilla.outbox import append
from flotilla.postgres import Viewer, acting_as, open_pool, tenant_transaction
from gateway.application import guarded_routes
from gateway.auth.on_behalf import HEADER
from gateway.retention import AT_MOST, RetentionJob
from gateway.settings import Settings, is_confidential_origin
from tests.hostile.shop import granted
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_live_events import following
from tests.integration.gateway.test_login import OURS, login
from tests.support.gateway import RunningGateway
from tests.support.operations import IDS, THINGS, operations_of
from tests.support.waiting import eventually

PAGE = "https://shop.example.com"
OTHERS = (
    "https://evil.example",
    "null",
    "https://shop.example.com.evil.example",
    "http://shop.example.com",
    "https://shop.example.com:8443",
    "https://SHOP.example.com",
    "https://a.shop.example.com",
)


async def token_of(client: httpx.AsyncClient, *sessions: str, **body: Any) -> str:
    answer = await client.post("/v1/tokens", json={"sessions": sessions, "scopes": ["run"], **body})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    token: str = answer.json()["token"]
    return token


async def ask(client: httpx.AsyncClient, session: str, **more: Any) -> httpx.Response:
    return await client.post(f"/v1/sessions/{session}/runs", json={"query": "What is it?", **more})


async def stored(gateway: RunningGateway) -> list[str]:
    """The rows of all tokens, as only the server's owner may read them."""
    connection = await asyncpg.connect(gateway.database.superuser_dsn)
    try:
        rows = await connection.fetch("SELECT to_jsonb(t)::text AS text FROM flotilla.browser_tokens AS t")
    finally:
        await connection.close()
    return [row["text"] for row in rows]


async def test_a_token_starts_a_run_in_its_session_and_follows_it_to_the_end(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session = unique("s")
    page = gateway.client(await token_of(operator, session))
    run = (await ask(page, session)).json()
    async with following(page, run["run_id"]) as seen:
        await gateway.work(run["run_id"], "Hello")
        await gateway.finish(run["run_id"])
        await eventually(lambda: seen.closed, timeout_s=20)
    assert seen.kinds[-1] == "done"
    assert (await page.get(f"/v1/runs/{run['run_id']}")).json()["user_id"] == "olga"
    judged = await page.post(f"/v1/runs/{run['run_id']}/feedback", json={"verdict": "up"})
    assert judged.status_code == 200, judged.text
    listed = await page.get(f"/v1/sessions/{session}/events")
    assert len(listed.json()["events"]) >= 3
    assert (await operator.get(f"/v1/sessions/{session}")).json()["user_id"] == "olga"


async def test_a_token_reaches_no_other_session_of_its_maker(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    own, other = unique("s"), unique("s")
    run = (await ask(operator, other)).json()
    page = gateway.client(await token_of(operator, own))
    for path in (f"sessions/{other}", f"sessions/{other}/events", f"runs/{run['run_id']}",
                 f"runs/{run['run_id']}/events", f"runs/{run['run_id']}/steps"):  # fmt: skip
        assert (await page.get(f"/v1/{path}")).status_code == 404, path
    assert (await page.post(f"/v1/runs/{run['run_id']}/cancel")).status_code == 404
    for session in (other, unique("new")):
        answer = await ask(page, session, if_active="interrupt")
        assert (answer.status_code, f"not for session {session}" in answer.text) == (403, True)
    assert (await page.get("/v1/runs")).json()["runs"] == []


async def test_a_fork_takes_the_sessions_that_it_begins_with(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    parent, fork = unique("s"), unique("s")
    await ask(operator, parent)
    made = await operator.post(f"/v1/sessions/{parent}/fork", json={"at_seq": 1, "session_id": fork})
    assert made.status_code == 201, made.text
    refused = await operator.post("/v1/tokens", json={"sessions": [fork]})
    assert (refused.status_code, "forked from" in refused.text) == (404, True)
    alone = gateway.client(await token_of(operator, fork))
    whole = gateway.client(await token_of(operator, fork, parent, scopes=["read"]))
    for path in ("", "/events", "/state"):
        assert (await alone.get(f"/v1/sessions/{fork}{path}")).status_code == 404, path
        assert (await whole.get(f"/v1/sessions/{fork}{path}")).status_code == 200, path


async def test_the_database_binds_functions_with_rights_of_their_own(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    """An append goes through a function that sees everything: the trigger stops it."""
    own, other = unique("s"), unique("s")
    for session in (own, other):
        await ask(operator, session)
    event = AgentStateEvent(kind="message", data={"role": "user", "content": "x"}, source="/gateway", run_id="r")
    [row] = await gateway.rows("SELECT owner FROM flotilla.sessions WHERE session_id = $1", own)
    async with open_pool(gateway.database.dsn("flotilla_gateway"), application="test") as pool:
        with acting_as(Viewer(names=(row["owner"],), sessions=(own,))):
            async with tenant_transaction(pool, "acme") as connection:
                await append(connection, "acme", own, [event])
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not for this session"):
                async with tenant_transaction(pool, "acme") as connection:
                    await append(connection, "acme", other, [event])


async def test_a_token_can_do_nothing_else(gateway: RunningGateway, unique: Callable[[str], str]) -> None:
    """Every operation: those that no token may call, and those that its scope leaves out."""
    await gateway.as_superuser(THINGS)
    admin = await gateway.client_of("root", "admin", "approver", "operator", person=True)
    page = gateway.client(await token_of(admin, IDS["session_id"]))
    own = unique("s")
    await ask(admin, own)
    reader = gateway.client(await token_of(admin, own, scopes=["read"]))
    scopes = {(m, route.path_format): route.access.browsers for route in guarded_routes() for m in route.methods or ()}
    document = (await gateway.client().get("/openapi.json")).json()
    refused = 0
    for operation in operations_of(document):
        described = document["paths"][operation.path][operation.method.lower()]
        if "security" not in described:
            continue
        scope = scopes[operation.method, operation.path]
        assert described.get("x-browser-scope") == scope
        if scope is None:
            for client in (page, reader):
                answer = await operation.call(client)
                assert (answer.status_code, "browser token" in answer.text) == (403, True), operation.name
            refused += 1
        if scope == "run":
            answer = await operation.call(reader)
            assert (answer.status_code, "lacks the scope run" in answer.text) == (403, True), operation.name
    assert refused > 60
    for kept in ("/v1/tokens", "/v1/keys", "/v1/approvals/{approval_id}/decision"):
        assert scopes["POST", kept] is None


async def test_a_token_that_only_reads_starts_and_cancels_nothing(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session = unique("s")
    run = (await ask(operator, session)).json()
    page = gateway.client(await token_of(operator, session, scopes=["read"]))
    assert (await page.get(f"/v1/runs/{run['run_id']}")).status_code == 200
    for answer in (
        await ask(page, session),
        await page.post(f"/v1/runs/{run['run_id']}/cancel"),
        await page.post(f"/v1/runs/{run['run_id']}/feedback", json={"verdict": "up"}),
    ):
        assert (answer.status_code, "scope run" in answer.text) == (403, True)


async def test_a_token_starts_what_its_maker_listed_and_calls_nobody(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    session = unique("s")
    page = gateway.client(await token_of(operator, session))
    workflow = {"workflow": "brief", "input": {}}
    for body, why in (
        (workflow, "may not start brief"),
        ({"query": "q", "steps": ["write"]}, "not for web pages"),
        ({"query": "q", "notify": {"url": "https://h.example", "secret_ref": "s"}}, "not for web pages"),
    ):
        answer = await page.post(f"/v1/sessions/{session}/runs", json=body)
        assert (answer.status_code, why in answer.text) == (403, True), answer.text
    briefs = gateway.client(await token_of(operator, session, workflows=["brief"]))
    assert (await briefs.post(f"/v1/sessions/{session}/runs", json=workflow)).json()["code"] == "unknown_workflow"
    assert (await ask(briefs, session)).status_code == 403


async def test_a_token_ends_by_itself_and_with_its_makers_key(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(key_cache_s=0.5) as one, replica(key_cache_s=0.5) as two:
        root = await one.client_of("root", "admin")
        made = (await root.post("/v1/keys", json={"name": "carol", "roles": ["operator"], "person": True})).json()
        token = await token_of(one.client(made["key"]), unique("s"))
        here, there = one.client(token), two.client(token)
        for client in (here, there):
            assert (await client.get("/v1/runs")).status_code == 200
        await root.delete(f"/v1/keys/{made['key_id']}")
        assert (await here.get("/v1/runs")).status_code == 401

        async def refused() -> bool:
            return (await there.get("/v1/runs")).status_code == 401

        await eventually(refused, timeout_s=5)
        other = one.client(await token_of(await one.client_of("dora", "operator"), unique("s")))
        assert (await other.get("/v1/runs")).status_code == 200
        await one.as_superuser("UPDATE flotilla.browser_tokens SET expires_at = now()")

        async def over() -> bool:
            return (await other.get("/v1/runs")).status_code == 401

        await eventually(over, timeout_s=5)
        async with open_pool(one.database.dsn("flotilla_gateway"), application="test") as pool:
            await RetentionJob(pool).delete_expired()
        assert await stored(one) == []


async def test_an_open_stream_ends_with_its_token(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(key_cache_s=0.5) as gateway:
        root = await gateway.client_of("root", "admin")
        made = (await root.post("/v1/keys", json={"name": "carol", "roles": ["operator"]})).json()
        session = unique("s")
        page = gateway.client(await token_of(gateway.client(made["key"]), session))
        run = (await ask(page, session)).json()
        async with following(page, run["run_id"]) as seen:
            await eventually(lambda: seen.has(1), timeout_s=20)
            await root.delete(f"/v1/keys/{made['key_id']}")
            await eventually(lambda: seen.closed, timeout_s=20)
        assert "done" not in seen.kinds


async def test_a_service_makes_tokens_for_its_users_and_they_act_for_them_alone(
    gateway: RunningGateway, unique: Callable[[str], str]
) -> None:
    root = await gateway.client_of("root", "admin", person=True)
    key = (await granted(root, "shop", ["operator"], people_of="https://login.example.com")).json()["key"]
    shop, session = gateway.client(key), unique("s")
    shop.headers[HEADER] = "ann"
    page = gateway.client(await token_of(shop, session))
    run = (await ask(page, session)).json()
    found = (await page.get(f"/v1/runs/{run['run_id']}")).json()
    assert (found["user_id"], found["acted_by"]) == ("ann", "shop")
    shop.headers[HEADER] = "ben"
    other = gateway.client(await token_of(shop, session))
    assert (await other.get(f"/v1/runs/{run['run_id']}")).status_code == 404
    page.headers[HEADER] = "ben"
    assert (await page.get(f"/v1/runs/{run['run_id']}")).status_code == 403


async def test_a_tokens_requests_count_towards_its_persons_limits(
    replica: Replica, unique: Callable[[str], str]
) -> None:
    async with replica(requests_per_s_per_person=0.01, request_burst_per_person=4) as gateway:
        olga = await gateway.client_of("olga", "operator", person=True)
        tokens = [await token_of(olga, unique("s")) for _ in range(2)]
        statuses = [(await gateway.client(token).get("/v1/runs")).status_code for token in tokens * 2]
        assert statuses == [200, 200, 429, 429]


async def test_nobody_makes_a_token_for_more_than_they_have(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    viewer = await gateway.client_of("vera", "viewer", person=True)
    root = await gateway.client_of("root", "admin", person=True)
    session = unique("s")
    run = (await ask(operator, session)).json()

    async def status(client: httpx.AsyncClient, **body: Any) -> int:
        return (await client.post("/v1/tokens", json={"sessions": [session], **body})).status_code

    assert await status(viewer, scopes=["run"]) == 403
    assert await status(viewer) == 404
    assert await status(root) == 404  # an admin sees every session, a token of theirs their own
    assert await status(root, sessions=[AUDIT_SESSION], scopes=["run"]) == 403
    odd: list[dict[str, Any]] = [
        {"sessions": []},
        {"scopes": []},
        {"scopes": ["write"]},
        {"expires_in_s": 1},
        {"expires_in_s": 10**6},
    ]
    for body in odd:
        assert await status(operator, **body) == 422, body
    admins = gateway.client(await token_of(root, session))
    assert (await admins.get(f"/v1/runs/{run['run_id']}")).status_code == 404
    stranger = await gateway.client_of("eve", "operator", tenant="globex", person=True)
    elsewhere = gateway.client(await token_of(stranger, session))
    assert (await elsewhere.get(f"/v1/runs/{run['run_id']}")).status_code == 404


async def test_a_token_is_stored_as_a_hash_and_lasts_as_long_as_asked(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    before = datetime.now(UTC)
    answer = await operator.post("/v1/tokens", json={"sessions": [unique("s")], "scopes": ["run"], "expires_in_s": 60})
    made = answer.json()
    lasts = datetime.fromisoformat(made["expires_at"]) - before
    assert timedelta(seconds=59) < lasts < timedelta(seconds=90)
    [text] = await stored(gateway)
    assert made["token_id"] in text
    assert made["token"] not in text


async def test_a_token_ends_no_later_than_what_it_was_made_with(replica: Replica, unique: Callable[[str], str]) -> None:
    async with replica(console_key_login=True, console_login_s=300) as gateway:
        root = await gateway.client_of("root", "admin")
        soon = datetime.now(UTC) + timedelta(seconds=120)
        body = {"name": "carol", "roles": ["operator"], "expires_at": soon.isoformat()}
        made = (await root.post("/v1/keys", json=body)).json()
        browser = await login(gateway, await gateway.key("olga", ("operator",), person=True))
        wanted = {"sessions": [unique("s")], "scopes": ["run"], "expires_in_s": 3000}
        for client, latest in (
            (gateway.client(made["key"]), soon),
            (browser, datetime.now(UTC) + timedelta(seconds=300)),
        ):
            answer = await client.post("/v1/tokens", json=wanted, headers=OURS)
            assert answer.status_code == 201, answer.text
            assert datetime.fromisoformat(answer.json()["expires_at"]) <= latest


async def test_tokens_are_forgotten_however_many_ended(
    gateway: RunningGateway, operator: httpx.AsyncClient, unique: Callable[[str], str]
) -> None:
    await token_of(operator, unique("s"))
    await gateway.as_superuser(
        f"""
        INSERT INTO flotilla.browser_tokens (tenant_id, token_id, secret_hash, subject, issuer, is_person, sessions,
            scopes, workflows, expires_at)
        SELECT tenant_id, 't-' || n, sha256(n::text::bytea), subject, issuer, is_person, sessions, scopes, workflows,
            now() - interval '1 s'
        FROM flotilla.browser_tokens, generate_series(1, {2 * AT_MOST + 1}) AS n
        """
    )
    async with open_pool(gateway.database.dsn("flotilla_gateway"), application="test") as pool:
        await RetentionJob(pool).delete_expired()
    assert len(await stored(gateway)) == 1


async def test_listed_pages_read_answers_and_others_do_not(replica: Replica) -> None:
    async with replica(cors_origins=(PAGE, "http://localhost:5173")) as gateway:
        client = await gateway.client_of("olga", "operator", person=True)

        async def preflight(origin: str, **headers: str) -> httpx.Response:
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST", **headers}
            return await gateway.client().request("OPTIONS", "/v1/sessions/s/runs", headers=asks)

        wanted = {"Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id"}
        allowed = await preflight(PAGE, **wanted)
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
        assert int(allowed.headers["Access-Control-Max-Age"]) >= 600
        assert "Origin" in allowed.headers["Vary"]
        for answer in (
            allowed,
            await client.get("/v1/runs", headers={"Origin": PAGE}),
            await client.get("/v1/runs/none", headers={"Origin": PAGE}),
            await gateway.client().get("/v1/runs", headers={"Origin": PAGE}),
        ):
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE
            assert "Access-Control-Allow-Credentials" not in answer.headers
            assert "Origin" in answer.headers["Vary"]
        for origin in OTHERS:
            answer = await client.get("/v1/runs", headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in answer.headers, origin
            assert "Origin" in answer.headers["Vary"], origin
            assert "Access-Control-Allow-Origin" not in (await preflight(origin)).headers, origin
        assert "Origin" in (await client.get("/v1/runs")).headers["Vary"]
        for path in ("/auth/me", "/", "/openai/v1/models"):
            answer = await client.get(path, headers={"Origin": PAGE})
            assert "Access-Control-Allow-Origin" not in answer.headers, path


async def test_without_listed_origins_no_page_reads_anything(operator: httpx.AsyncClient) -> None:
    answer = await operator.get("/v1/runs", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origin", "holds"),
    [
        (PAGE, True), ("https://shop.example.com:8443", True), ("http://localhost:5173", True),
        ("http://127.0.0.1:8000", True), ("http://[::1]:8000", True),
        ("*", False), ("null", False), ("https://*.example.com", False), ("https://shop.example.com/", False),
        ("https://shop.example.com:443", False), ("http://shop.example.com", False),
        ("https://Shop.example.com", False),
        ("shop.example.com", False), ("https://a@shop.example.com", False), ("https://shop.example.com/path", False),
    ],
)  # fmt: skip
def test_only_whole_origins_can_be_listed(origin: str, *, holds: bool) -> None:
    assert is_confidential_origin(origin) is holds
    if not holds:
        with pytest.raises(ValueError, match="is not an origin"):
            Settings(cors_origins=(origin,))  # type: ignore[call-arg]
