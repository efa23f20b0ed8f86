"""What `flotilla doctor` says to change, by the error that is behind the one it met."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from flotilla.contracts.errors import RetryLater
from flotilla_cli.errors import CliError
from flotilla_cli.local.certificates import check_client_certificate, start_http2_connection
from flotilla_cli.local.endpoints import check_trace_receiver
from flotilla_cli.local.reasons import ServerVariables, hint_for_error
from tests.support.certificates import SERVER_NAME, Certificates, make_certificates
from tests.support.otlp import trace_receiver

VARIABLES = ServerVariables("THE_ADDRESS", "THE_CA_FILE", "THE_SERVER_NAME")


async def met(port: int, context: ssl.SSLContext, name: str = SERVER_NAME) -> RetryLater:
    """The error as clients raise it: the reason is two errors behind."""
    with pytest.raises(ssl.SSLError) as caught:
        await start_http2_connection("127.0.0.1", port, context, name)
    between, outer = ConnectionError("no connection"), RetryLater("away")
    between.__context__, outer.__cause__ = caught.value, between
    return outer


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Certificates, int]]:
    async with _serving(tmp_path / "one", datetime.timedelta(hours=1)) as serving:
        yield serving


@asynccontextmanager
async def _serving(folder: Path, life: datetime.timedelta) -> AsyncIterator[tuple[Certificates, int]]:
    """A server that wants a client's certificate."""
    made = make_certificates(folder, life)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(made.ca))
    context.load_cert_chain(made.server, made.server_key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield made, server.sockets[0].getsockname()[1]


async def test_an_authority_that_is_not_trusted_and_another_name_are_kept_apart(
    served: tuple[Certificates, int],
) -> None:
    made, port = served
    assert "set THE_CA_FILE to" in str(hint_for_error(await met(port, ssl.create_default_context()), VARIABLES))
    context = ssl.create_default_context(cafile=str(made.ca))
    assert "or set THE_SERVER_NAME" in str(hint_for_error(await met(port, context, "other.test"), VARIABLES))


async def test_a_server_that_misses_the_clients_certificate_is_noticed(served: tuple[Certificates, int]) -> None:
    made, port = served
    context = ssl.create_default_context(cafile=str(made.ca))
    assert "client's certificate if it asks" in str(hint_for_error(await met(port, context), VARIABLES))
    context.load_cert_chain(made.client, made.client_key)
    await start_http2_connection("127.0.0.1", port, context, SERVER_NAME)


async def test_an_expired_certificate_is_named(tmp_path: Path) -> None:
    async with _serving(tmp_path / "two", -datetime.timedelta(minutes=1)) as (made, port):
        error = await met(port, ssl.create_default_context(cafile=str(made.ca)))
    assert "has expired: renew it" in str(hint_for_error(error, VARIABLES))


async def test_a_port_where_nothing_listens_and_a_name_that_is_none_are_named() -> None:
    with pytest.raises(ConnectionRefusedError) as refused:
        await asyncio.open_connection("127.0.0.1", 9)
    assert "nothing listens there" in str(hint_for_error(refused.value, VARIABLES))
    with pytest.raises(socket.gaierror) as unknown:
        await asyncio.open_connection("no.such.host.invalid", 9)
    assert "can't be resolved" in str(hint_for_error(unknown.value, VARIABLES))
    assert "nothing answers there" in str(hint_for_error(TimeoutError(), VARIABLES))
    assert hint_for_error(ValueError("something else"), VARIABLES) is None


def test_the_clients_own_certificate_is_looked_at(tmp_path: Path) -> None:
    check_client_certificate(None, "CERT")
    check_client_certificate(make_certificates(tmp_path / "good").client, "CERT")
    old = make_certificates(tmp_path / "old", -datetime.timedelta(minutes=1)).client
    with pytest.raises(CliError, match=r"CERT=.*is valid from .* not now") as caught:
        check_client_certificate(old, "CERT")
    assert "renew it" in caught.value.hint
    old.write_text("no certificate")
    with pytest.raises(CliError, match="can't be read as a certificate"):
        check_client_certificate(old, "CERT")


def test_traces_are_sent_with_the_headers_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with trace_receiver() as receiver:
        receiver.wanted = {"x-team": "a b", "authorization": "Bearer t"}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with pytest.raises(CliError, match="takes no traces") as caught:
            check_trace_receiver()
        assert "OTEL_EXPORTER_OTLP_HEADERS" in caught.value.hint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=a%20b,authorization=Bearer%20t")
        assert "takes traces" in check_trace_receiver()
    with patch("flotilla_cli.local.endpoints._LIMIT_S", 0.5), pytest.raises(CliError, match="takes no traces") as gone:
        check_trace_receiver()
    assert "usually port 4318" in gone.value.hint
