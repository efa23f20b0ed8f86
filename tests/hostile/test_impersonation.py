"""Who tries to act as somebody else is refused, and leaves a trace: an event, a count for an alert, a line in a log."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from flotilla.contracts.names import AUDIT_SESSION
from flotilla.postgres import Pool
from flotilla.telemetry.metrics import IMPERSONATIONS_REFUSED
from gateway.auth.api_keys import ApiKeys
from gateway.auth.impersonation import EVENTS_AT_ONCE, RefusedImpersonationLog
from gateway.auth.on_behalf import HEADER
from tests.hostile.shop import Shop, granted
from tests.hostile.test_administrators import changes
from tests.integration.gateway.conftest import Replica
from tests.integration.gateway.test_signers import approve, enroll, roots_file
from tests.integration.gateway.test_tokens import AUDIENCE, token
from tests.support.gateway import RunningGateway
from tests.support.oidc_provider import oidc_provider
from tests.support.votes import Ed25519Key, approved, enrolled

VOTE = "/v1/approvals/{approval_id}/decision"
DECISION = {"decision": "approve", "content_hash": "0" * 64}


async def refusals(gateway: RunningGateway) -> list[Any]:
    return [details for change, details in await changes(gateway) if change == "api_key_refused"]


def counted(kind: str) -> float:
    return float(IMPERSONATIONS_REFUSED.labels(kind)._value.get())


async def key_id(shop: Shop, name: str) -> str:
    [found] = [one for one in (await shop.root.get("/v1/keys")).json()["keys"] if one["name"] == name]
    return str(found["key_id"])


async def test_a_vote_on_behalf_of_somebody_is_refused_with_a_trace(shop: Shop) -> None:
    before = counted("vote")
    with capture_logs() as logs:
        answer = await shop.acting("bob").post("/v1/approvals/a-1/decision", json=DECISION)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    traced = {
        "refused": "vote",
        "by": "shop",
        "key_id": await key_id(shop, "shop"),
        "subject": "bob",
        "operation": f"POST {VOTE}",
        "of": {"approval_id": "a-1"},
    }
    assert await refusals(shop.gateway) == [traced]
    assert counted("vote") == before + 1
    [line] = [one for one in logs if one["event"] == "impersonation_refused"]
    assert line.items() >= {**traced, "tenant": "acme", "log_level": "warning"}.items()
    shown = (await shop.root.get(f"/v1/sessions/{AUDIT_SESSION}/events")).json()["events"][-1]
    assert (shown["data"]["change"], shown["data"]["details"]["subject"]) == ("api_key_refused", "bob")


async def test_what_else_is_refused_leaves_a_trace_of_its_kind(shop: Shop) -> None:
    plain = (await granted(shop.root, "till", ["operator"])).json()["key"]
    await shop.root.delete(f"/v1/keys/{await key_id(shop, 'till')}")
    assert (await shop.acting("alice", key=plain).get("/v1/sessions")).status_code == 401  # nobody's
    eve = await shop.gateway.key("eve", ["operator"], person=True)
    attempts = {
        ("operation", "alice"): await shop.acting("alice").post("/v1/keys", json={"name": "x", "roles": ["admin"]}),
        ("no_right", "alice"): await shop.acting("alice", key=eve).get("/v1/sessions"),
        ("service", "shop"): await shop.acting("shop").get("/v1/sessions"),
        ("key", "alice"): await granted(shop.root, "alice", ["approver"], may_act_for_others=False, person=True),
    }
    assert {answer.status_code for answer in attempts.values()} == {403}
    assert [(one["refused"], one["subject"]) for one in await refusals(shop.gateway)] == list(attempts)
    assert [one["by"] for one in await refusals(shop.gateway)] == ["shop", "eve", "shop", "root"]


async def test_keys_that_sign_votes_are_nobody_elses_to_enroll_or_approve(replica: Replica, tmp_path: Path) -> None:
    root, mine = Ed25519Key(), Ed25519Key()
    file = tmp_path / "roots.toml"
    file.write_text(roots_file(root))
    async with replica(vote_roots=file) as gateway:
        grace = await gateway.client_of("grace", "admin", person=True)
        mallory = await gateway.client_of("mallory", "admin", person=True)
        bot = await gateway.client_of("bot", "approver")
        assert (await enroll(mallory, enrolled(mine, "bob"))).status_code == 403
        assert (await enroll(bot, enrolled(mine, "bot"))).status_code == 403
        signed = enrolled(mine, "mallory")
        signer = (await enroll(mallory, signed)).json()
        by_grace = approved(signed, "mallory", root)
        assert (await approve(mallory, signer, by_grace)).status_code == 403
        assert (await approve(grace, signer, by_grace)).status_code == 200
        assert [(one["refused"], one["by"], one["subject"]) for one in await refusals(gateway)] == [
            ("signer", "mallory", "bob"),
            ("signer", "bot", "bot"),
            ("signer", "mallory", "mallory"),
        ]


async def test_a_flood_of_attempts_does_not_fill_the_audit_session(shop: Shop) -> None:
    before, attempts = counted("vote"), EVENTS_AT_ONCE + 15
    for number in range(attempts):
        assert (await shop.acting(f"p{number}").post("/v1/approvals/a/decision", json=DECISION)).status_code == 403
    assert EVENTS_AT_ONCE <= len(await refusals(shop.gateway)) < attempts
    assert counted("vote") == before + attempts
    other = (await granted(shop.root, "till", ["operator"])).json()["key"]
    await shop.acting("bob", key=other).post("/v1/approvals/a/decision", json=DECISION)
    assert (await refusals(shop.gateway))[-1]["by"] == "till"  # another key's attempts are seen all the same


async def test_refused_attempts_count_as_requests_of_their_caller(replica: Replica) -> None:
    slow: dict[str, Any] = {"requests_per_s_per_person": 0.01, "requests_per_s_per_service": 0.01}
    async with replica(request_burst_per_person=3, request_burst_per_service=3, **slow) as gateway:
        root = await gateway.client_of("root", "admin", person=True)
        shop = gateway.client((await granted(root)).json()["key"])
        eve = await gateway.client_of("eve", "operator", person=True)
        for client, named, kind in ((eve, "alice", "no_right"), (shop, "shop", "service")):
            before = counted(kind)
            answers = [await client.get("/v1/sessions", headers={HEADER: named}) for _ in range(6)]
            assert [answer.status_code for answer in answers] == [403] * 3 + [429] * 3
            assert counted(kind) == before + 3
            assert (await client.get("/v1/sessions")).status_code == 429


async def test_requests_for_nobody_count_as_requests_of_their_caller(replica: Replica) -> None:
    slow: dict[str, Any] = {"requests_per_s_per_person": 0.01, "requests_per_s_per_service": 0.01}
    async with replica(request_burst_per_person=3, request_burst_per_service=3, **slow) as gateway:
        root = await gateway.client_of("root", "admin", person=True)
        shop = gateway.client((await granted(root)).json()["key"])
        eve = await gateway.client_of("eve", "operator", person=True)
        for client in (eve, shop):
            answers = [await client.get("/v1/sessions", headers={HEADER: "%"}) for _ in range(6)]
            assert [answer.status_code for answer in answers] == [400] * 3 + [429] * 3
            assert (await client.get("/v1/sessions")).status_code == 429


async def test_names_of_services_are_not_looked_up_beyond_the_rate(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    is_service = ApiKeys.is_service

    async def counted_look(keys: ApiKeys, tenant_id: str, subject: str) -> bool:
        looked_up.append(subject)
        return await is_service(keys, tenant_id, subject)

    monkeypatch.setattr(ApiKeys, "is_service", counted_look)
    async with replica(request_burst_per_service=3, requests_per_s_per_service=0.01) as gateway:
        root = await gateway.client_of("root", "admin", person=True)
        shop = gateway.client((await granted(root)).json()["key"])
        for number in range(6):
            await shop.get("/v1/sessions", headers={HEADER: f"person-{number}"})
    assert looked_up == ["person-0", "person-1", "person-2"]


async def test_names_and_ids_of_the_attackers_choice_are_bounded(shop: Shop) -> None:
    await shop.acting("%F0%9F%98%80" * 256).post(f"/v1/approvals/{'%20' * 2_000}/decision", json=DECISION)
    [event] = await refusals(shop.gateway)
    assert (event["of"], len(event["subject"])) == ({}, 256)


async def test_it_stays_refused_where_it_can_not_be_recorded(shop: Shop) -> None:
    client = shop.acting("bob")
    assert (await client.get("/v1/sessions")).status_code == 200  # the key is known from here on
    await shop.gateway.as_superuser("ALTER TABLE flotilla.event_outbox RENAME TO away")
    try:
        with capture_logs() as logs:
            assert (await client.post("/v1/approvals/a/decision", json=DECISION)).status_code == 403
    finally:
        await shop.gateway.as_superuser("ALTER TABLE flotilla.away RENAME TO event_outbox")
    assert {one["event"] for one in logs} >= {"impersonation_refused", "impersonation_not_recorded"}


async def test_a_token_of_the_provider_leaves_a_count_and_a_line(replica: Replica) -> None:
    with oidc_provider() as provider:
        async with replica(oidc_issuer=provider.url, oidc_audience=AUDIENCE) as gateway:
            client: httpx.AsyncClient = gateway.client(token(provider, sub="eve", roles=["operator"]))
            before = counted("no_right")
            assert (await client.get("/v1/sessions", headers={HEADER: "alice"})).status_code == 403
            assert counted("no_right") == before + 1


async def test_each_kind_is_at_0_from_the_start(pool: Pool) -> None:
    IMPERSONATIONS_REFUSED.clear()
    RefusedImpersonationLog(pool)
    [metric] = IMPERSONATIONS_REFUSED.collect()
    shown = {sample.labels["kind"]: sample.value for sample in metric.samples if sample.name.endswith("_total")}
    assert shown == dict.fromkeys(("vote", "operation", "no_right", "service", "key", "signer"), 0)
