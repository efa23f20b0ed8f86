"""Through the API, with the real gateway and worker."""

from pathlib import Path
from typing import Any

import httpx

from flotilla.contracts.envelope import to_builtins
from flotilla.votes.statements import canonical_statement_text
from tests.hostile.signed_votes.hands import (
    ARGS,
    HASH,
    POLICY,
    SIGNED,
)
from tests.integration.gateway.conftest import Replica
from tests.support.votes import (
    Ed25519Key,
    approved,
    enrolled,
    statement_of,
)
from tests.support.waiting import eventually
from tests.support.worker import running_worker


async def test_people_sign_votes_through_the_api(
    replica: Replica, redis_url: str, temporal_address: str, tmp_path: Path, root: Ed25519Key
) -> None:
    policy, file = tmp_path / "policy.toml", tmp_path / "roots.toml"
    policy.write_text(SIGNED)
    file.write_text(
        f'[[roots]]\ntenant = "acme"\nsubject = "grace"\nkind = "ed25519"\npublic_key = "{root.public_key}"\n'
    )
    async with (
        replica(approval_policy=str(policy), vote_roots=file) as gateway,
        running_worker(
            dsn=gateway.database.dsn("flotilla_worker"),
            pool=gateway.pool,
            redis_url=redis_url,
            temporal_address=temporal_address,
            task_queue=gateway.settings.task_queue,
            policy=str(policy),
            vote_roots=file,
        ),
    ):
        alice, bob = [await gateway.client_of(name, "operator", "approver", person=True) for name in ("alice", "bob")]
        grace = await gateway.client_of("grace", "admin", person=True)
        key = Ed25519Key()
        signed = enrolled(key, "bob")
        signer = (await bob.post("/v1/signers", json=to_builtins(signed))).json()
        path = f"/v1/signers/{signer['signer_id']}"
        approval = approved(signed, "bob", root)
        assert (await grace.post(f"{path}/approval", json=to_builtins(approval))).status_code == 200
        action = (await alice.post("/v1/actions", json={"action": "echo", "description": "d", "args": ARGS})).json()
        where = f"/v1/approvals/{action['action_id']}"
        shown = await eventually(lambda: _found(bob, where), timeout_s=20)
        assert (shown["signature"], shown["signing_policy_version"]) == ("required", POLICY.version)

        async def vote(**more: Any) -> tuple[int, str]:
            answer = await bob.post(f"{where}/decision", json={"content_hash": HASH, **more})
            return answer.status_code, answer.json().get("code", answer.json().get("approval_status"))

        async def sign(decision: str = "approve", **fields: Any) -> dict[str, Any]:
            statement = statement_of(
                "bob",
                approval_id=action["action_id"],
                content_hash=HASH,
                policy_version=POLICY.version,
                decision=decision,
                **fields,
            )
            return {"signer_id": signer["signer_id"], **to_builtins(key.sign(canonical_statement_text(statement)))}

        assert await vote(decision="approve") == (403, "signature_required")
        assert await vote(decision="approve", signature=await sign("reject")) == (403, "signature_invalid")
        assert await vote(decision="approve", signature=await sign(tenant="globex")) == (403, "signature_invalid")
        assert await vote(decision="approve", signature=await sign() | {"signer_id": "x"}) == (404, "not_found")
        first = await sign()
        assert await vote(decision="approve", signature=first) == (200, "approved")
        assert await vote(decision="approve", signature=await sign()) == (200, "approved")
        over = await eventually(lambda: _over(alice, action["action_id"]), timeout_s=20)
        assert (over["status"], over["votes"][0]["signed"]) == ("completed", True)


async def _found(client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    answer = await client.get(path)
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 else None


async def _over(client: httpx.AsyncClient, action_id: str) -> dict[str, Any] | None:
    action = await _found(client, f"/v1/actions/{action_id}")
    return action if action and action["finished_at"] else None
