"""What Temporal keeps of an encrypting fleet's workflows, and who gets it decrypted for Temporal's own web page."""

import secrets
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio.client import Client

from flotilla.temporal_codec import ENCODING
from tests.integration.gateway.conftest import Gate, answering
from tests.integration.gateway.test_privacy import confirmed, encrypting
from tests.support.encryption import key_file
from tests.support.gateway import RunningGateway

__all__ = ["encrypting", "key_file"]


def payloads_in(value: Any) -> list[dict[str, Any]]:
    """All payloads of a message of Temporal's, as JSON has them."""
    if isinstance(value, list):
        return [found for one in value for found in payloads_in(one)]
    if not isinstance(value, dict):
        return []
    if "encoding" in value.get("metadata", {}):
        return [value]
    return payloads_in(list(value.values()))


def shown(answer: Any) -> str:
    return "".join(b64decode(one.get("data", "")).decode() for one in answer.json()["payloads"])


async def test_temporal_keeps_no_word_and_operators_of_the_tenant_read_it(
    encrypting: RunningGateway,
    *,
    redis_url: str,
    temporal_address: str,
    gate: Gate,
    key_file: Path,
    unique: Callable[[str], str],
) -> None:
    canary, session = secrets.token_hex(16), unique("s")
    ada = await encrypting.client_of("ada", "operator", person=True)
    keys: dict[str, Any] = {"encryption": "on", "encryption_key_file": key_file}
    async with answering(encrypting, redis_url, temporal_address, gate, **keys):
        gate.is_open.set()
        started = await ada.post(f"/v1/sessions/{session}/runs", json={"query": f"Who is {canary}?", "wait_s": 30})
        assert started.json()["status"] == "success", started.text
        client = await Client.connect(temporal_address)
        history = await client.get_workflow_handle(f"run-{started.json()['run_id']}").fetch_history()
    assert canary.encode() not in b"".join(event.SerializeToString() for event in history.events)
    payloads = payloads_in([MessageToDict(event) for event in history.events])
    # The others are traces' headers.
    sealed = [one for one in payloads if b64decode(one["metadata"]["encoding"]) == ENCODING]
    assert len(sealed) > 3
    body = {"payloads": sealed}
    assert canary in shown(await ada.post("/v1/temporal/decode", json=body))
    audit = await (await encrypting.client_of("otto", "admin")).get("/v1/sessions/flotilla:audit/events")
    assert "privacy_payloads_read" in audit.text
    viewer = await encrypting.client_of("vera", "viewer", person=True)
    assert (await viewer.post("/v1/temporal/decode", json=body)).status_code == 403
    stranger = await encrypting.client_of("eve", "operator", person=True, tenant="globex")
    assert (await stranger.post("/v1/temporal/decode", json=body)).json() == body
    await confirmed(encrypting)
    # At once, on the gateway that confirmed.
    assert "[erased]" in shown(await ada.post("/v1/temporal/decode", json=body))
