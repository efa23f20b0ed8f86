"""What a file of MCP servers may hold, and how its credentials are read and hidden."""

import json
from pathlib import Path
from typing import Any

import pytest

from flotilla.contracts.errors import ConfigurationError
from tool_gateway.servers import ServerSecrets, read_server_configs


def written(folder: Path, **server: Any) -> Path:
    """A file with one server, `desk`."""
    file = folder / "servers.json"
    file.write_text(json.dumps({"mcpServers": {"desk": server}}), "utf-8")
    return file


def test_the_form_that_clients_share_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, command="uvx", args=["mcp-server-time"], env={"TZ": "UTC"}, toolRisk={"a": "high"})
    server = read_server_configs(file)["desk"]
    assert (server.command, server.minimum_risk("a"), server.minimum_risk("b"), server.tenants) == (
        "uvx",
        "high",
        "medium",
        None,
    )


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({}, "set either command or url"),
        ({"command": "a", "url": "https://b"}, "set either command or url"),
        ({"url": "file:///etc/passwd"}, "https:// or http://"),
        ({"url": "https://b", "headers": {"Authorization": "Bearer abc"}}, "Authorization holds a credential"),
        ({"command": "a", "env": {"GITHUB_TOKEN": "ghp_1"}}, "GITHUB_TOKEN holds a credential"),
        ({"command": "a", "risk": "none"}, "risk"),
        ({"command": "a", "allowedTools": []}, "allowedTools"),
        ({"command": "a", "timeoutS": 0}, "timeoutS"),
    ],
)
def test_what_can_not_be_meant_stops_the_service(tmp_path: Path, server: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read_server_configs(written(tmp_path, **server))


def test_credentials_are_read_from_where_the_file_says_and_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_KEY", "from-the-environment")
    (tmp_path / "token").write_text("from-a-file\n", "utf-8")
    env = {"API_TOKEN": f"${{file:{tmp_path / 'token'}}}", "API_KEY": "x-${env:DESK_KEY}"}
    secrets = ServerSecrets()
    given = secrets.stdio_environment(read_server_configs(written(tmp_path, command="a", env=env))["desk"])
    assert (given["API_TOKEN"], given["API_KEY"]) == ("from-a-file", "x-from-the-environment")
    assert secrets.mask_credentials("from-a-file and from-the-environment") == "*** and ***"
    assert "DESK_KEY" not in given


def test_a_reference_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    server = read_server_configs(written(tmp_path, url="https://b", headers={"Authorization": "${env:NO_SUCH}"}))[
        "desk"
    ]
    with pytest.raises(ConfigurationError, match="NO_SUCH"):
        ServerSecrets().http_headers(server)
