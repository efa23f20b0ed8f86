"""How the client of a model endpoint connects: with a private authority, and through a proxy."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from pydantic import SecretStr

from flotilla.config import LlmSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.llm.endpoint_client import create_endpoint_client
from tests.support.certificates import make_certificates

ANSWER = b'{"object": "list", "data": [{"id": "small", "object": "model", "created": 1, "owned_by": "us"}]}'


@asynccontextmanager
async def answering(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers each request with a list of models; its port, and the heads of the requests."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + ANSWER)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


async def models(**settings: object) -> list[str]:
    """What the endpoint of these settings serves."""
    given = LlmSettings(openai_api_key=SecretStr("key"), **settings)  # type: ignore[arg-type]
    async with create_endpoint_client(given) as client:
        return [model.id for model in (await client.models.list()).data]


async def test_a_private_authority_is_trusted_only_where_its_file_is_set(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.server, made.server_key)
    async with answering(context) as (port, _):
        url = f"https://127.0.0.1:{port}/v1"
        assert await models(openai_base_url=url, llm_ca_file=str(made.ca)) == ["small"]
        with pytest.raises(openai.APIConnectionError):
            await models(openai_base_url=url)


async def test_a_proxy_gets_the_request_and_the_login() -> None:
    async with answering() as (port, heads):
        proxy = SecretStr(f"http://team:secret@127.0.0.1:{port}")
        assert await models(openai_base_url="http://models.invalid/v1", llm_proxy=proxy) == ["small"]
    assert heads[0].startswith(b"GET http://models.invalid/v1/models HTTP/1.1\r\n")
    assert b"proxy-authorization: basic dgvhbtpzzwnyzxq=" in heads[0].lower()


async def test_a_file_that_holds_no_certificates_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="FLOTILLA_LLM_CA_FILE"):
        await models(llm_ca_file=str(tmp_path / "none.pem"))
