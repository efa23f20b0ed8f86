"""Archives go to an S3-compatible store that nobody here wrote, and come back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flotilla_cli.archive_files import fetch_archive, open_archive_store
from flotilla_cli.errors import CliError
from flotilla_devstack.ports import free_port
from tests.packaging.programs import BIN, ROOT, succeed
from tests.support.waiting import eventually

UV = BIN / "uv"


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """A server, installed from its lock."""
    environment, port = tmp_path / "venv", free_port()
    succeed(UV, "venv", "--quiet", "--python", sys.executable, environment)
    python = environment / "bin" / "python"
    lock = ROOT / "locks/object-store.txt"
    succeed(UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock)
    server = subprocess.Popen(
        [environment / "bin" / "moto_server", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.timeout(300)
async def test_archives_go_to_an_s3_compatible_store_and_come_back(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient(base_url=store_url, trust_env=False) as client:

        async def made() -> bool:
            try:
                return (await client.put("/archive")).is_success
            except httpx.TransportError:
                return False

        await eventually(made, 60)
        for name, value in {
            "AWS_ENDPOINT_URL": store_url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "flotilla",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        file = tmp_path / "archive"
        file.write_bytes(os.urandom(12_000_000))  # several parts
        place = open_archive_store("s3://archive/acme/").store(file, "sessions-1.jsonl.gz")
        assert place == "s3://archive/acme/sessions-1.jsonl.gz"
        assert (await client.get("/archive/acme/sessions-1.jsonl.gz")).content == file.read_bytes()
        assert fetch_archive(place, tmp_path / "back").read_bytes() == file.read_bytes()
    for missing in ("s3://archive/acme/none", "s3://none/sessions-1.jsonl.gz"):
        with pytest.raises(CliError, match="cannot be read"):
            fetch_archive(missing, tmp_path / "back")
    with pytest.raises(CliError, match="cannot be written"):
        open_archive_store("s3://none").store(file, "sessions-1.jsonl.gz")
