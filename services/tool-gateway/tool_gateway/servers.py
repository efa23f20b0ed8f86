"""Which MCP servers there are: the `mcpServers` of the JSON file that MCP clients share, with what governs each.

Credentials are references, `${file:/run/secrets/token}` or `${env:GITHUB_TOKEN}`, so that the file itself can be a
ConfigMap.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.requests import RiskLevel

NAME = r"^(?=.{1,32}$)[a-z0-9]+([_-][a-z0-9]+)*$"
"""No `__`: it separates server and tool in the names that agents use."""
_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSPHRASE|CREDENTIAL|AUTH", re.IGNORECASE)
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE")
"""What a stdio server gets of the service's environment, which holds the passwords of PostgreSQL and Redis."""

ServerName = Annotated[str, Meta(pattern=NAME)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Bytes = Annotated[int, Meta(ge=1024, le=64_000_000)]


class McpServerConfig(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """One server: `command` for one that speaks over stdio, `url` for one that speaks Streamable HTTP."""

    type: Literal["stdio", "http", "streamable-http"] | None = None
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    tools: list[str] | None = None
    """The tools that may be allowed; None: any that the server offers."""
    risk: RiskLevel = "medium"
    """The least risk of each tool that `toolRisk` does not name; policy can raise it."""
    tool_risk: dict[str, RiskLevel] = {}
    idempotent: list[str] = []
    """Tools that may run again after a call without an answer; of any other people decide."""
    timeout_s: Seconds = 60.0
    max_result_bytes: Bytes = 1_000_000
    """A larger result is replaced by an error."""
    max_message_bytes: Bytes = 10_000_000
    """What the server may send at once; at more the connection is closed."""
    max_calls: Annotated[int, Meta(ge=1, le=1000)] = 32
    """How many calls it has at a time; further ones are tried again."""
    tenants: list[str] | None = None
    """Whose administrators may allow its tools; None: the operators' tenant alone, `["*"]` every tenant."""

    @property
    def max_calls_per_tenant(self) -> int:
        """How many of its calls one tenant may have at a time: of a server for several, half of them."""
        is_shared = self.tenants is not None and (len(self.tenants) > 1 or "*" in self.tenants)
        return max(1, self.max_calls // 2) if is_shared else self.max_calls

    def minimum_risk(self, tool: str) -> RiskLevel:
        """Return the least risk that the operators give `tool`."""
        return self.tool_risk.get(tool, self.risk)


class _File(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    mcp_servers: dict[ServerName, McpServerConfig] = {}


def read_server_configs(file: Path | None) -> dict[str, McpServerConfig]:
    """Return the servers by name.

    Raises:
        ConfigurationError: the file can't be read, has an unknown member, or holds a credential itself.
    """
    if file is None:
        return {}
    try:
        servers = msgspec.json.decode(file.read_bytes(), type=_File).mcp_servers
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"FLOTILLA_MCP_SERVERS_FILE {file}: {error}") from error
    problems = [problem for name, server in servers.items() for problem in _problems(name, server)]
    if problems:
        raise ConfigurationError(f"FLOTILLA_MCP_SERVERS_FILE {file}: " + "; ".join(problems))
    return servers


def _problems(name: str, server: McpServerConfig) -> Iterator[str]:
    if (server.command is None) == (server.url is None):
        yield f"{name}: set either command or url"
    if server.url is not None and not server.url.startswith(("https://", "http://")):
        yield f"{name}: url begins with https:// or http://"
    written = [*((header, value) for header, value in server.headers.items()), *_secret_variables(server.env)]
    for key, value in written:
        if not _REFERENCE.search(value):
            yield f"{name}: {key} holds a credential: write ${{file:PATH}} or ${{env:NAME}}"


def _secret_variables(env: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in env.items() if _SECRET_NAME.search(key)]


class ServerSecrets:
    """The values behind a server's references, read again for each connection, and how to mask them."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def stdio_environment(self, server: McpServerConfig) -> dict[str, str]:
        """Return the environment of a stdio server: its own variables and a few of the service's.

        Raises:
            ConfigurationError: what a reference names is not there.
        """
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        return inherited | self._resolved(server.env)

    def http_headers(self, server: McpServerConfig) -> dict[str, str]:
        """Return the headers of each request to a server behind a URL.

        Raises:
            ConfigurationError: what a reference names is not there.
        """
        return self._resolved(server.headers)

    def mask_credentials(self, text: str) -> str:
        """Return `text` with `***` for each credential in it."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, "***")
        return text

    def _resolved(self, written: Mapping[str, str]) -> dict[str, str]:
        return {key: _REFERENCE.sub(self._value, value) for key, value in written.items()}

    def _value(self, reference: re.Match[str]) -> str:
        kind, name = reference.groups()
        try:
            value = os.environ[name] if kind == "env" else Path(name).read_text("utf-8").strip()
        except (KeyError, OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{reference.group()}: {type(error).__name__}: {error}") from error
        if value:
            self._values.add(value)
        return value
