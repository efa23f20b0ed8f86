"""Programs that nobody here wrote check the log's trees: Go's checksum database and torchwood, over HTTP."""

import asyncio
from pathlib import Path

import httpx
import pytest

from audit_consumer.connections import LIVE, open_projection_pool
from audit_consumer.witnesses import WitnessJob, parse_witnesses
from flotilla.audit.export import export_session
from flotilla.audit.notes import LOG_KEY, NoteKey
from flotilla.config.signing import signer_with_new_key
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.names import AUDIT_LOG_ORIGIN, log_origin
from flotilla.kafka.lanes import lane_of_session
from tests.integration.gateway.conftest import gateway, log_topics, replica
from tests.packaging.programs import run, succeed
from tests.support.audit import events_of, project_directly, records_of
from tests.support.gateway import RunningGateway
from tests.support.log_witness import LogWitness, serving

__all__ = ["gateway", "log_topics", "replica"]
TOOLS = Path(__file__).parent / "log_tools"
LANE = lane_of_session("default", "s1")
FORMER, SIZE = 300, 2_000
"""Sizes of two checkpoints."""


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program."""
    built = tmp_path_factory.mktemp("log_tools") / "log_tools"
    succeed("nice", "go", "build", "-o", built, ".", cwd=TOOLS)
    return built


async def test_go_verifies_checkpoints_tiles_proofs_and_an_export(
    gateway: RunningGateway, tool: Path, tmp_path: Path
) -> None:
    signer = signer_with_new_key()
    found = records_of(("default", event.subject, encode_event(event)) for event in events_of("s1", range(1, SIZE + 1)))
    key = await gateway.key("monitor", ["viewer"], tenant="globex")
    prefix = f"{gateway.url}/v1/audit/logs/{LANE}"
    witness = LogWitness("witness.example.org", signer.public_keys())
    async with (
        open_projection_pool(gateway.database.dsn("flotilla_audit"), LIVE, application="test") as pool,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        with serving([witness]) as [url]:
            asked = parse_witnesses([f"{url}#{witness.key.to_text()}"])
            job = WitnessJob(pool, http, asked, 1, timeout_s=10, owned=lambda: {LANE: 0})
            for records in (found[:FORMER], found[FORMER:]):
                await project_directly(pool, records, signer)
                await gateway.as_superuser("UPDATE audit.checkpoints SET published_at = now()")
                await job.ask_all_witnesses()
                if records[-1] is not found[-1]:
                    former = (
                        await http.get(f"{prefix}/checkpoint", headers={"Authorization": f"Bearer {key}"})
                    ).content
    await gateway.as_superuser(
        "INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq) "
        f"VALUES ('default', 's1', 'ada', {SIZE})"
    )
    (tmp_path / "former").write_bytes(former)
    (tmp_path / "export").write_bytes(b"".join([line async for line in export_session(gateway.pool, "default", "s1")]))
    log_key = NoteKey(log_origin(AUDIT_LOG_ORIGIN, LANE), LOG_KEY, signer.public_key).to_text()
    command: list[str | Path] = [
        tool,
        prefix,
        key,
        log_key,
        witness.key.to_text(),
        tmp_path / "former",
        tmp_path / "export",
    ]
    assert (
        await asyncio.to_thread(succeed, *command)
        == f"{log_origin(AUDIT_LOG_ORIGIN, LANE)} {FORMER} of {SIZE} {SIZE} 1\n"
    )
    changed = (tmp_path / "export").read_bytes().replace(b'"index":1999', b'"index":1998')
    (tmp_path / "export").write_bytes(changed)
    assert (await asyncio.to_thread(run, *command)).returncode == 1
