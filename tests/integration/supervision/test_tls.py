"""TLS with a private authority, to the servers that need it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from temporalio.runtime import Runtime as SdkRuntime

from flotilla.config import TemporalSettings
from flotilla.contracts.errors import ConfigurationError, RetryLater
from flotilla.postgres import open_pool
from flotilla.postgres.connecting import libpq_dsn
from gateway.temporal import TemporalGateway
from tests.support.certificates import SERVER_NAME, Certificates, make_certificates
from tests.support.postgres import Database
from workflow_worker.temporal import TemporalConnection


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


async def test_postgresql_is_verified_against_the_ca_file_and_without_it_refused(
    database: Database, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres_with_tls(database, certificates) as dsn:
        async with open_pool(dsn, application="test", ca_file=str(certificates.ca)) as pool:
            assert await pool.fetchval("SELECT 1") == 1
        assert await asyncio.to_thread(_over_libpq, libpq_dsn(dsn, str(certificates.ca)))
        async with open_pool(dsn, application="test") as pool:
            with pytest.raises(ssl.SSLCertVerificationError):
                await pool.fetchval("SELECT 1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
        async with open_pool(dsn, application="test") as pool:
            assert await pool.fetchval("SELECT 1") == 1


def _over_libpq(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return bool(connection.pgconn.ssl_in_use)


@asynccontextmanager
async def postgres_with_tls(database: Database, certificates: Certificates) -> AsyncIterator[str]:
    """A DSN with sslmode=verify-full; the tests' PostgreSQL is built without TLS, so that ends at a proxy."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    parts = urlsplit(database.dsn())
    passing: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # SSLRequest
        writer.write(b"S")
        await writer.start_tls(context)
        there, out = await asyncio.open_connection(parts.hostname, parts.port)
        passing.update((asyncio.create_task(_pass(reader, out)), asyncio.create_task(_pass(there, writer))))

    async with _served(connected, passing) as port:
        netloc = f"{parts.username}@127.0.0.1:{port}"
        yield urlunsplit(parts._replace(netloc=netloc, query="sslmode=verify-full"))


@asynccontextmanager
async def _served(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    passing: "set[asyncio.Task[None]]",
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)


@asynccontextmanager
async def tls_before(address: str, certificates: Certificates) -> AsyncIterator[str]:
    """An address that speaks TLS, wants a client's certificate, and passes on to `address`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.server, certificates.server_key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    passing: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(urlsplit(f"//{address}").hostname, urlsplit(f"//{address}").port)
        passing.update((asyncio.create_task(_pass(reader, out)), asyncio.create_task(_pass(there, writer))))

    async with _served(connected, passing, context) as port:
        yield f"127.0.0.1:{port}"


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


async def test_temporal_takes_a_private_authority_a_client_certificate_and_a_server_name(
    temporal_address: str, certificates: Certificates
) -> None:
    async with tls_before(temporal_address, certificates) as address:
        settings = TemporalSettings(
            temporal_address=address,
            temporal_ca_file=certificates.ca,
            temporal_cert_file=certificates.client,
            temporal_key_file=certificates.client_key,
            temporal_server_name=SERVER_NAME,
        )
        await TemporalGateway(settings, "queue").check_ready()
        await TemporalConnection(settings, SdkRuntime.default()).check_temporal_ready()
        for wrong in ({"temporal_server_name": "other.test"}, {"temporal_cert_file": None, "temporal_key_file": None}):
            with pytest.raises(RetryLater, match="does not answer"):
                await TemporalGateway(settings.model_copy(update=wrong), "queue").check_ready()


async def test_half_a_pair_and_a_missing_file_are_named(certificates: Certificates) -> None:
    for wrong, message in (
        ({"temporal_cert_file": certificates.client}, "belong together"),
        ({"temporal_ca_file": Path("/nowhere/ca.pem")}, "FLOTILLA_TEMPORAL_CA_FILE=/nowhere/ca.pem"),
    ):
        settings = TemporalSettings(temporal_address="127.0.0.1:1", **wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=message):
            await TemporalGateway(settings, "queue").check_ready()
