"""People enroll their own keys, a second administrator approves them, and both are in the tenant's audit session."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import AUDIT_SESSION
from flotilla.contracts.votes import Signed
from flotilla.eventstore import AgentEventStore
from tests.integration.gateway.conftest import Replica
from tests.support.gateway import RunningGateway
from tests.support.votes import Ed25519Key, Key, Passkey, SshKey, approved, enrolled, now_text

SIGNERS = "/v1/signers"


@pytest.fixture
def root() -> Ed25519Key:
    return Ed25519Key()


@pytest.fixture
async def gateway(replica: Replica, tmp_path: Path, root: Ed25519Key) -> AsyncIterator[RunningGateway]:
    file = tmp_path / "roots.toml"
    file.write_text(roots_file(root))
    async with replica(vote_roots=file) as running:
        yield running


def roots_file(root: Ed25519Key) -> str:
    return f"""
[passkeys]
rp_id = "flotilla.example.com"
origins = ["https://flotilla.example.com"]
[[roots]]
tenant = "acme"
subject = "grace"
kind = "ed25519"
public_key = "{root.public_key}"
"""


@pytest.fixture
async def bob(gateway: RunningGateway) -> httpx.AsyncClient:
    return await gateway.client_of("bob", "approver", person=True)


@pytest.fixture
async def grace(gateway: RunningGateway) -> httpx.AsyncClient:
    return await gateway.client_of("grace", "admin", person=True)


async def enroll(client: httpx.AsyncClient, signed: Signed) -> httpx.Response:
    return await client.post(SIGNERS, json=to_builtins(signed))


async def approve(client: httpx.AsyncClient, signer: dict[str, Any], signed: Signed) -> httpx.Response:
    return await client.post(f"{SIGNERS}/{signer['signer_id']}/approval", json=to_builtins(signed))


async def changes(gateway: RunningGateway) -> list[tuple[str, Any]]:
    """What happened to signers, in the tenant's audit session."""
    events = await AgentEventStore(gateway.pool, "acme").replay(AUDIT_SESSION)
    found = [(str(event.data["change"]), to_builtins(event.data["details"])) for event in events]
    return [(change, details) for change, details in found if change.startswith("signer_")]


@pytest.mark.parametrize("kind", ["ed25519", "ssh", "passkey"])
async def test_a_key_counts_from_the_second_persons_approval_to_its_revocation(
    *,
    gateway: RunningGateway,
    bob: httpx.AsyncClient,
    grace: httpx.AsyncClient,
    root: Ed25519Key,
    kind: str,
) -> None:
    made: dict[str, Callable[[], Key]] = {
        "ed25519": Ed25519Key,
        "ssh": SshKey,
        "passkey": Passkey,
    }
    signed = enrolled(made[kind](), "bob")
    answer = await enroll(bob, signed)
    assert answer.status_code == 201, answer.text
    signer = answer.json()
    assert (signer["status"], signer["subject"], signer["roles"]) == ("pending", "bob", [])
    answer = await approve(grace, signer, approved(signed, "bob", root))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["approved_by"]) == ("approved", "grace")
    listed = (await bob.get(SIGNERS, params={"subject": "bob"})).json()
    assert [one["status"] for one in listed["signers"]] == ["approved"]
    assert listed["passkeys"]["rp_id"] == "flotilla.example.com"
    for _ in range(2):
        assert (await bob.delete(f"{SIGNERS}/{signer['signer_id']}")).json()["status"] == "revoked"
    recorded = await changes(gateway)
    assert [change for change, _ in recorded] == ["signer_enrolled", "signer_approved", "signer_revoked"]
    assert recorded[0][1]["signed"]["statement"] == signed.statement
    assert (recorded[1][1]["by"], recorded[2][1]["by"]) == ("grace", "bob")


async def test_nobody_enrolls_a_key_for_another_person_or_in_another_tenant(
    gateway: RunningGateway, bob: httpx.AsyncClient
) -> None:
    key = Ed25519Key()
    assert (await enroll(bob, enrolled(key, "carol"))).status_code == 403
    assert (await enroll(bob, enrolled(key, "bob", tenant="globex"))).status_code == 403
    service = await gateway.client_of("deploy", "admin")
    assert (await enroll(service, enrolled(key, "deploy"))).status_code == 403
    stolen = Signed(statement=enrolled(Ed25519Key(), "bob").statement, signature=enrolled(key, "bob").signature)
    assert (await enroll(bob, stolen)).status_code == 422
    assert (await enroll(bob, enrolled(key, "bob"))).status_code == 201
    assert (await enroll(bob, enrolled(key, "bob"))).status_code == 409
    carol = await gateway.client_of("carol", "approver", person=True)
    assert (await enroll(carol, enrolled(key, "carol"))).status_code == 409


async def test_only_a_second_administrator_with_a_root_approves(
    gateway: RunningGateway, bob: httpx.AsyncClient, grace: httpx.AsyncClient, root: Ed25519Key
) -> None:
    signed = enrolled(Ed25519Key(), "bob")
    signer = (await enroll(bob, signed)).json()
    right = approved(signed, "bob", root)
    heidi = await gateway.client_of("heidi", "admin", person=True)
    service = await gateway.client_of("deploy", "admin")
    stranger = await gateway.client_of("eve", "admin", tenant="globex", person=True)
    assert (await approve(bob, signer, right)).status_code == 403
    assert (await approve(heidi, signer, right)).status_code == 403
    assert (await approve(service, signer, right)).status_code == 403
    assert (await approve(stranger, signer, right)).status_code == 404
    for wrong in (
        approved(signed, "bob", Ed25519Key()),
        approved(signed, "bob", root, by="heidi"),
        approved(signed, "carol", root),
        approved(enrolled(Ed25519Key(), "bob"), "bob", root),
        approved(signed, "bob", root, expires_at=now_text(days=500)),
    ):
        assert (await approve(grace, signer, wrong)).status_code == 422
    assert (await approve(grace, signer, right)).status_code == 200
    assert (await approve(grace, signer, right)).status_code == 409
    assert [change for change, _ in await changes(gateway)] == ["signer_enrolled", "signer_approved"]


async def test_an_administrator_does_not_approve_a_key_of_their_own(
    gateway: RunningGateway, grace: httpx.AsyncClient, root: Ed25519Key
) -> None:
    signed = enrolled(Ed25519Key(), "grace")
    signer = (await enroll(grace, signed)).json()
    assert (await approve(grace, signer, approved(signed, "grace", root))).status_code == 403


async def test_a_lost_key_is_revoked_by_an_administrator_and_another_one_enrolled(
    gateway: RunningGateway, bob: httpx.AsyncClient, grace: httpx.AsyncClient, root: Ed25519Key
) -> None:
    lost = enrolled(Ed25519Key(), "bob")
    signer = (await enroll(bob, lost)).json()
    await approve(grace, signer, approved(lost, "bob", root))
    carol = await gateway.client_of("carol", "approver", person=True)
    assert (await carol.delete(f"{SIGNERS}/{signer['signer_id']}")).status_code == 404
    assert (await grace.delete(f"{SIGNERS}/{signer['signer_id']}")).json()["revoked_by"] == "grace"
    assert (await approve(grace, signer, approved(lost, "bob", root))).status_code == 409
    assert (await enroll(bob, lost)).status_code == 409
    fresh = enrolled(Ed25519Key(), "bob")
    second = (await enroll(bob, fresh)).json()
    assert (await approve(grace, second, approved(fresh, "bob", root))).json()["status"] == "approved"
    assert "signers" in (await grace.get(SIGNERS)).json()
    assert (await (await gateway.client_of("eve", "admin", tenant="globex")).get(SIGNERS)).json()["signers"] == []
