"""What `flotilla doctor` finds of docs/topologies.md where no further programs are needed, and what it says to change.

Poolers, sentinels, Kafka's and Temporal's certificates: tests/ha/topologies/test_doctor.py.
"""

from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from flotilla.postgres import open_pool
from flotilla_cli.errors import CliError
from flotilla_cli.local.servers import check_postgres, check_redis
from tests.integration.supervision.test_tls import postgres_with_tls
from tests.support.certificates import Certificates, make_certificates
from tests.support.postgres import Database
from tests.support.redis_cluster import redis_cluster
from tests.support.waiting import eventually

NOBODY = "127.0.0.1:1"


async def finding(check: Awaitable[str]) -> str:
    """What is wrong, and what to change."""
    with pytest.raises(CliError) as found:
        await check
    return f"{found.value} → {found.value.hint}"


def with_password_file(url: str, file: Path) -> str:
    return urlunsplit(urlsplit(url)._replace(query=f"password_file={file}"))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


async def test_postgresqls_hosts(database: Database) -> None:
    parts = urlsplit(database.dsn())
    user, _, host = parts.netloc.rpartition("@")
    several = urlunsplit(parts._replace(netloc=f"{user}@{NOBODY},{host}"))
    assert "schema up to date" in await check_postgres(several)
    nobody = urlunsplit(parts._replace(netloc=f"{user}@{NOBODY}"))
    assert "nothing listens there: start the server, or check host and port in FLOTILLA_POSTGRES_DSN" in await finding(
        check_postgres(nobody)
    )


async def test_postgresqls_standby(database: Database) -> None:
    name = urlsplit(database.superuser_dsn).path.removeprefix("/")
    async with open_pool(database.superuser_dsn, application="test", max_size=1) as superuser:
        await superuser.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    assert "accepts no writes" in await finding(check_postgres(database.dsn()))


async def test_postgresqls_certificates(
    database: Database, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with postgres_with_tls(database, certificates) as dsn:
        assert "set FLOTILLA_POSTGRES_CA_FILE to" in await finding(check_postgres(dsn))
        monkeypatch.setenv("FLOTILLA_POSTGRES_CA_FILE", str(certificates.ca))
        assert "schema up to date" in await check_postgres(dsn)


async def test_password_files(database: Database, redis_url: str, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert f"password file {none}" in await finding(check_postgres(with_password_file(database.dsn(), none)))
    assert f"password file {none}" in await finding(check_redis(with_password_file(redis_url, none)))


async def test_a_redis_cluster(tmp_path: Path) -> None:
    async with redis_cluster(tmp_path) as url:

        async def found() -> bool:
            return "use one primary with replicas" in await finding(check_redis(url))

        await eventually(found)
