"""What the URL of a Redis behind sentinels says."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError as NoPrimary

from flotilla.bus import connect_redis
from flotilla.bus.connection import redis_url_and_options
from flotilla.bus.sentinel import PrimaryConnection, Sentinels, split_sentinel_url
from flotilla.config import KnowledgeSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.knowledge.redis_vectors import open_vector_store


def sentinels_of(url: str) -> Sentinels:
    _, sentinels = split_sentinel_url(url)
    assert sentinels is not None
    return sentinels


def test_other_urls_are_left_as_they_are() -> None:
    assert split_sentinel_url("rediss://u:p@h:6379/2") == ("rediss://u:p@h:6379/2", None)


def test_login_database_and_options_are_those_of_the_servers() -> None:
    plain, _ = split_sentinel_url("redis+sentinel://u:p%40@a:1,b/main/2?sentinel_password=s&ssl_ca_certs=/ca.pem")
    assert plain == "redis://u:p%40@sentinel/2?ssl_ca_certs=/ca.pem"
    assert split_sentinel_url("redis+sentinel://a/main")[0] == "redis://sentinel/0"


def test_sentinels_have_a_usual_port_and_may_have_addresses_of_ipv6() -> None:
    assert vars(sentinels_of("redis+sentinel://a:1,b,[::1]:3/main"))["_places"] == [("a", 1), ("b", 26379), ("::1", 3)]


def test_tls_counts_for_sentinels_and_servers() -> None:
    sentinels = sentinels_of("rediss+sentinel://u:p@a/main/0?ssl_ca_certs=/ca.pem")
    assert sentinels.kind is SSLConnection
    assert vars(sentinels)["_options"]["ssl_ca_certs"] == "/ca.pem"
    assert sentinels_of("redis+sentinel://a/main").kind is Connection


def test_sentinels_have_a_login_of_their_own() -> None:
    options = vars(sentinels_of("redis+sentinel://u:p@a/main?sentinel_username=s&sentinel_password=t"))["_options"]
    assert (options["username"], options["password"]) == ("s", "t")
    none = vars(sentinels_of("redis+sentinel://u:p@a/main"))["_options"]
    assert (none["username"], none["password"]) == (None, None)


async def test_passwords_of_servers_and_sentinels_are_read_from_files(tmp_path: Path) -> None:
    for name in ("server", "sentinel"):
        (tmp_path / name).write_text(f"of-the-{name}\n")
    url, options = redis_url_and_options(
        f"redis+sentinel://u@a/main/1?password_file={tmp_path}/server&sentinel_password_file={tmp_path}/sentinel"
    )
    assert url == "redis://sentinel/1"
    assert issubclass(options["connection_class"], PrimaryConnection)
    assert await options["credential_provider"].get_credentials_async() == ("u", "of-the-server")
    own = vars(options["connection_class"].sentinels)["_options"]["credential_provider"]
    assert await own.get_credentials_async() == ("of-the-sentinel",)


WRONG = "a a/ /main a/main/x a:99999/main a:b/main a,/main [::1:3/main ?x=1"


@pytest.mark.parametrize("rest", WRONG.split())
def test_a_url_without_a_primary_or_with_a_wrong_port_is_refused(rest: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write redis\+sentinel://"):
        split_sentinel_url(f"redis+sentinel://{rest}")


@pytest.mark.parametrize("url", ["redis+sentinel://a", "http://a:1", "redis://a:port/0"])
async def test_a_url_that_cannot_be_used_is_named_by_its_own_setting(url: str) -> None:
    settings = KnowledgeSettings.model_validate({"vector_store_url": url})
    with pytest.raises(ConfigurationError, match=r"^FLOTILLA_VECTOR_STORE_URL"):
        async with open_vector_store(settings, connect_redis):
            pass
    with pytest.raises(ConfigurationError, match=r"^FLOTILLA_REDIS_URL"):
        async with connect_redis(url):
            pass


async def test_a_sentinel_that_names_no_address_is_passed_over_for_the_next_one() -> None:
    wrong = (b"*2\r\n$1\r\nh\r\n$4\r\nport\r\n", b"*2\r\n$1\r\n\xff\r\n:1\r\n", b"*1\r\n$1\r\nh\r\n", b":7\r\n")
    answers = [*wrong, b"*2\r\n$4\r\nmain\r\n$4\r\n6379\r\n"]
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(answering(answer)) for answer in answers]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        assert await sentinels_of(f"redis+sentinel://{hosts}/main").find_primary() == ("main", 6379)
        with pytest.raises(NoPrimary, match="names no address"):
            await sentinels_of(f"redis+sentinel://127.0.0.1:{ports[0]}/main").find_primary()


@asynccontextmanager
async def answering(address: bytes) -> AsyncIterator[int]:
    """A server that says yes to every command, and `address` where the primary is asked for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while words := await reader.read(65536):
            asked = b"GET-MASTER" in words
            writer.write(address if asked else b"+OK\r\n" * len(re.findall(rb"^\*\d", words, re.MULTILINE)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
