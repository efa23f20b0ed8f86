"""Checkpoints are stamped by an authority, and OpenSSL verifies the stamps without anything of Flotilla."""

from base64 import b64decode
from pathlib import Path

import httpx

from audit_consumer.connections import LIVE, open_projection_pool
from audit_consumer.stamps import StampJob
from flotilla.config.signing import signer_with_new_key
from flotilla.contracts.envelope import encode_event
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Pool
from tests.integration.gateway.conftest import gateway, log_topics, replica
from tests.packaging.programs import run
from tests.support.audit import Projected, events_of, project_directly, records_of
from tests.support.gateway import RunningGateway
from tests.support.time_stamps import Authority, openssl

__all__ = ["gateway", "log_topics", "replica"]
LANE = lane_of_session("default", "s1")
GRANTED_WITHOUT_STAMP = bytes.fromhex("30053003020100")
"""An answer in DER: status 0, and no token."""


async def test_openssl_verifies_the_stamps_of_checkpoints(gateway: RunningGateway, tmp_path: Path) -> None:
    authority, signer = Authority(tmp_path), signer_with_new_key()
    monitor = await gateway.client_of("monitor", "viewer", tenant="globex")
    found = records_of(("default", event.subject, encode_event(event)) for event in events_of("s1", range(1, 6)))
    async with (
        open_projection_pool(gateway.database.dsn("flotilla_audit"), LIVE, application="test") as pool,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        with authority.serving() as url:
            job = StampJob(pool, http, url, timeout_s=20, owned=lambda: {LANE: 0})
            for records in (found[:2], found[2:]):
                await project_directly(pool, records, signer)
                await gateway.as_superuser("UPDATE audit.checkpoints SET published_at = now()")
                for wrong in (b"", b"no stamp", GRANTED_WITHOUT_STAMP, b"0" * 100_000, await earlier(pool)):
                    authority.answer = wrong
                    await job.stamp_all_partitions()
                authority.answer = None
                await job.stamp_all_partitions()
                await job.stamp_all_partitions()
    assert len(await Projected(gateway.database).fetch("SELECT 1 FROM audit.log_stamps")) == 2, (
        "one for each tree, and none that is wrong"
    )
    sizes = [await verified_size(monitor, size, authority, tmp_path) for size in (None, 1, 2, 3)]
    assert sizes == [5, 2, 2, 5]
    assert (await monitor.get(f"/v1/audit/logs/{LANE}/stamp", params={"size": 6})).status_code == 404


async def earlier(pool: Pool) -> bytes:
    """A genuine stamp of an earlier tree, if there is one."""
    return await pool.fetchval("SELECT response FROM audit.log_stamps LIMIT 1") or b""


async def verified_size(monitor: httpx.AsyncClient, size: int | None, authority: Authority, folder: Path) -> int:
    """The size of the stamped tree, as OpenSSL verified it."""
    query = {} if size is None else {"size": size}
    stamp = (await monitor.get(f"/v1/audit/logs/{LANE}/stamp", params=query)).json()
    checkpoint, response = folder / "checkpoint", folder / "stamp.tsr"
    checkpoint.write_text(stamp["checkpoint"])
    response.write_bytes(b64decode(stamp["response"]))
    verify = ("ts", "-verify", "-in", response, "-CAfile", authority.certificate, "-data", checkpoint)
    assert "Verification: OK" in openssl(*verify)
    checkpoint.write_text(stamp["checkpoint"].replace(f"\n{stamp['size']}\n", "\n9\n"))
    assert run("openssl", *verify).returncode == 1
    found: int = stamp["size"]
    return found
