"""A monitor reads the tree of a partition over HTTP, as tiles, and checks it with nothing else."""

import httpx
import pytest

from audit_consumer.connections import LIVE, open_projection_pool
from flotilla.audit.notes import TreeHead, decode_note, decode_tree_head, why_tree_head_not_trusted
from flotilla.audit.proof import merkle_root, split_concatenated_leaves
from flotilla.audit.tree import leaf_hash
from flotilla.config.signing import Signer, signer_with_new_key
from flotilla.contracts.envelope import encode_event
from flotilla.kafka.lanes import lane_of_session
from tests.support.audit import Projected, events_of, project_directly, records_of
from tests.support.gateway import RunningGateway

LANE = lane_of_session("default", "s1")
LOG = f"/v1/audit/logs/{LANE}"
SIZE = 600


@pytest.fixture
async def signer(gateway: RunningGateway) -> Signer:
    """Of a tree with 600 entries, which Kafka has a copy of."""
    signer = signer_with_new_key()
    found = records_of(("default", event.subject, encode_event(event)) for event in events_of("s1", range(1, SIZE + 1)))
    async with open_projection_pool(gateway.database.dsn("flotilla_audit"), LIVE, application="test") as pool:
        await project_directly(pool, found, signer)
    await gateway.as_superuser("UPDATE audit.checkpoints SET published_at = now()")
    return signer


async def read_tile(monitor: httpx.AsyncClient, tile: str) -> bytes:
    answer = await monitor.get(f"{LOG}/tile/{tile}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return answer.content


async def read_checkpoint(monitor: httpx.AsyncClient, signer: Signer) -> TreeHead:
    answer = await monitor.get(f"{LOG}/checkpoint")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    head = decode_tree_head(decode_note(answer.content))
    assert why_tree_head_not_trusted(decode_note(answer.content), head, signer.public_keys()) is None
    return head


async def test_a_monitor_of_another_tenant_computes_the_signed_root_from_the_tiles(
    gateway: RunningGateway, signer: Signer
) -> None:
    monitor = await gateway.client_of("watcher", "viewer", tenant="globex")
    head = await read_checkpoint(monitor, signer)
    assert (head.size, head.origin) == (SIZE, f"flotilla.invalid/audit/{LANE}")
    bundles = [await read_tile(monitor, f"entries/{name}") for name in ("000", "001", "002.p/88")]
    entries = [bundle[at + 2 : at + 34] for bundle in bundles for at in range(0, len(bundle), 34)]
    assert all(bundle[at : at + 2] == b"\x00\x20" for bundle in bundles for at in range(0, len(bundle), 34))
    leaves = [leaf_hash(entry) for entry in entries]
    assert merkle_root(leaves) == head.root
    hashes = b"".join([await read_tile(monitor, f"0/{name}") for name in ("000", "001", "002.p/88")])
    assert split_concatenated_leaves(hashes) == leaves
    above = split_concatenated_leaves(await read_tile(monitor, "1/000.p/2"))
    assert above == [merkle_root(leaves[:256]), merkle_root(leaves[256:512])]
    rows = await Projected(gateway.database).fetch("SELECT hash FROM audit.session_events ORDER BY seq")
    assert entries == [row["hash"] for row in rows], "hashes, and nothing else"


@pytest.mark.parametrize(
    "tile",
    [
        "0/002",
        "0/002.p/89",
        "0/003.p/1",
        "1/000.p/3",
        "1/000",
        "2/000.p/1",
        "9/000.p/1",
        "entries/002",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/x000/000",
        "0/0",
        "0/-01",
        "00/000",
        "0/x999/x999/x999/x999/x999/999.p/255",
        "0/\u0660\u0660\u0660",
        "data/000",
    ],
)
async def test_what_the_newest_checkpoint_does_not_cover_is_no_tile(
    gateway: RunningGateway, signer: Signer, tile: str
) -> None:
    monitor = await gateway.client_of("watcher", "viewer")
    answer = await monitor.get(f"{LOG}/tile/{tile}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_checkpoint_that_kafka_has_no_copy_of_is_not_shown(gateway: RunningGateway, signer: Signer) -> None:
    await gateway.as_superuser("UPDATE audit.checkpoints SET published_at = NULL")
    monitor = await gateway.client_of("watcher", "viewer")
    assert (await monitor.get(f"{LOG}/checkpoint")).status_code == 404
    assert (await monitor.get(f"{LOG}/tile/0/000")).status_code == 404
    assert (await monitor.get("/v1/audit/logs/12/checkpoint")).status_code == 422
