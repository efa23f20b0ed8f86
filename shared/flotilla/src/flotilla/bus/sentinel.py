"""Redis Sentinel: at each connect, the sentinels are asked where the primary is.

`redis+sentinel://USER:PASSWORD@SENTINEL1:26379,SENTINEL2:26379/PRIMARY/0`, or `rediss+sentinel://` for TLS to sentinels
and servers alike. The login is that of the servers; the sentinels' own is in the query: `sentinel_username` with
`sentinel_password`, or with `sentinel_password_file`.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from flotilla.bus.logins import PasswordFileCredentials
from flotilla.config.password_files import read_password_file
from flotilla.contracts.errors import ConfigurationError

HostAndPort: TypeAlias = tuple[str, int]
REDIS_SETTING = "FLOTILLA_REDIS_URL"
SENTINEL_URL_EXAMPLE = "redis+sentinel://USER:PASSWORD@HOST1:26379,HOST2:26379/PRIMARY/0"
_CONNECTION_CLASS_BY_SCHEME: Mapping[str, type[Connection]] = {
    "redis+sentinel": Connection,
    "rediss+sentinel": SSLConnection,
}
_DEFAULT_SENTINEL_PORT = 26379
_SENTINEL_TIMEOUT_S = 1.0
"""For each sentinel: one that is frozen must not take the time of the next."""
_SENTINEL_CONNECTION_OPTIONS: Mapping[str, Any] = {
    "socket_timeout": _SENTINEL_TIMEOUT_S,
    "socket_connect_timeout": _SENTINEL_TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,
    "driver_info": None,
}
_USER, _PASSWORD, _PASSWORD_FILE = "sentinel_username", "sentinel_password", "sentinel_password_file"


class Sentinels:
    """The sentinels that watch one primary."""

    def __init__(
        self, places: list[HostAndPort], name: str, kind: type[Connection], options: Mapping[str, Any]
    ) -> None:
        """`name` is the primary's; `options` are those of a connection to a sentinel."""
        self._places = places
        self._name = name
        self.kind = kind
        self._options = options

    async def find_primary(self) -> HostAndPort:
        """Return where the primary is. The sentinel that answers is asked first the next time.

        Raises:
            redis.exceptions.ConnectionError: none leads to a primary; says why, for each.
        """
        refusals = []
        for place in list(self._places):
            try:
                found = await self._ask_sentinel(place)
            except (exceptions.RedisError, OSError) as error:
                refusals.append(f"{place[0]}:{place[1]}: {_describe_sentinel_error(error)}")
            else:
                self._places.remove(place)
                self._places.insert(0, place)
                return found
        raise exceptions.ConnectionError(f"no sentinel leads to a primary ({'; '.join(refusals)})")

    def distrust_last_sentinel(self) -> None:
        """Ask the sentinel that answered last only after all others: where it led to is no primary."""
        self._places.append(self._places.pop(0))

    async def _ask_sentinel(self, place: HostAndPort) -> HostAndPort:
        connection = self.kind(host=place[0], port=place[1], **self._options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            answer = await _call_sentinel(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            if answer is None:
                raise exceptions.RedisError(await self._describe_unknown_primary(connection))
            return _parse_primary_address(answer)
        finally:
            with suppress(exceptions.RedisError, OSError):
                await connection.disconnect()

    async def _describe_unknown_primary(self, connection: Connection) -> str:
        watched = [
            dict(zip(one[::2], one[1::2], strict=True))
            for one in await _call_sentinel(connection, "SENTINEL", "MASTERS")
        ]
        names = ", ".join(one[b"name"].decode(errors="replace") for one in watched)
        return f"it watches no primary named {self._name}, only: {names}" if names else "it watches no primary"


class PrimaryConnection(Connection):
    """A connection to whatever is the primary."""

    sentinels: Sentinels

    @property
    def server_address(self) -> HostAndPort:
        """Where it led to."""
        return self.host, self.port

    async def _connect(self) -> None:
        self.host, self.port = await self.sentinels.find_primary()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """See redis-py; a server that the sentinels name by mistake, or too early, is refused."""
        await super().on_connect_check_health(check_health=check_health)
        if await _load_server_role(self) != b"master":
            self.sentinels.distrust_last_sentinel()
            raise exceptions.ConnectionError(
                f"{self.host}:{self.port}, which a sentinel names the primary, is a replica"
            )


def primary_connection_class(sentinels: Sentinels) -> type[PrimaryConnection]:
    """Return the kind of connection that goes where `sentinels` lead."""
    return type("Following", (PrimaryConnection, sentinels.kind), {"sentinels": sentinels})


def split_sentinel_url(url: str, setting: str = REDIS_SETTING) -> tuple[str, Sentinels | None]:
    """Return a URL for redis-py, whose host does not count, and the sentinels; None where the URL names none. `setting`
    is where the URL stands.

    Raises:
        ConfigurationError: the URL names no primary, or a port that is none.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _CONNECTION_CLASS_BY_SCHEME:
        return url, None
    netloc, _, path = rest.partition("/")
    path, _, query = path.partition("?")
    login, at, hosts = netloc.rpartition("@")
    name, _, database = path.strip("/").partition("/")
    if not (hosts and name) or not (database.isdigit() or not database):
        raise ConfigurationError(
            f"{setting} names no primary, or no number of a database: write {SENTINEL_URL_EXAMPLE}"
        )
    own, others = _split_sentinel_login(query)
    plain = urlunsplit(("redis", f"{login}{at}sentinel", f"/{database or 0}", urlencode(others, safe="/"), ""))
    places = [_parse_host_and_port(host, setting) for host in hosts.split(",")]
    return plain, Sentinels(
        places,
        unquote(name),
        _CONNECTION_CLASS_BY_SCHEME[scheme],
        {**_tls_options(plain), **own, **_SENTINEL_CONNECTION_OPTIONS},
    )


def _split_sentinel_login(query: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The options of the sentinels' login, and the other parameters of the query."""
    given = parse_qsl(query, keep_blank_values=True)
    own = {name: value for name, value in given if name in (_USER, _PASSWORD, _PASSWORD_FILE)}
    others = [each for each in given if each[0] not in own]
    user, file = own.get(_USER), own.get(_PASSWORD_FILE)
    if file is not None:
        return {"credential_provider": PasswordFileCredentials(user, lambda: read_password_file(Path(file)))}, others
    return {"username": user, "password": own.get(_PASSWORD)}, others


def _parse_host_and_port(host: str, setting: str) -> HostAndPort:
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port or _DEFAULT_SENTINEL_PORT
    except ValueError:
        name, port = None, _DEFAULT_SENTINEL_PORT
    if not name:
        raise ConfigurationError(f"{setting}: {host or 'an empty name'} is no HOST:PORT: write {SENTINEL_URL_EXAMPLE}")
    return name, port


def _tls_options(plain: str) -> dict[str, Any]:
    return {name: value for name, value in parse_url(plain).items() if name.startswith("ssl_")}


def _describe_sentinel_error(error: Exception) -> str:
    if isinstance(error, exceptions.AuthenticationError):
        return f"{error} (check sentinel_username and sentinel_password in the query of FLOTILLA_REDIS_URL)"
    if "unknown command" in str(error):
        return "it is no sentinel: check the port, by default 26379"
    return str(error) or type(error).__name__


def _parse_primary_address(answer: Any) -> HostAndPort:
    try:
        host, port = answer
        return host.decode(), int(port)
    except (AttributeError, TypeError, ValueError) as error:
        raise exceptions.RedisError(f"it names no address, but {answer!r:.80}") from error


async def _load_server_role(connection: Connection) -> bytes:
    answer = await _call_sentinel(connection, "HELLO")
    server = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    return bytes(server[b"role"])


async def _call_sentinel(connection: Connection, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()
