"""Which gateway, and as whom."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flotilla_cli import target
from flotilla_cli.errors import CliError, Misuse, NotFound
from flotilla_cli.target import (
    DEFAULT_URL,
    ConnectionOptions,
    GatewayTarget,
    is_same_server,
    read_local_keys,
    resolve_target,
)

LOCAL = "http://127.0.0.1:8931"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without a stack, and no setting of the caller's."""
    monkeypatch.setenv("FLOTILLA_HOME", str(tmp_path))
    monkeypatch.delenv("FLOTILLA_URL", raising=False)
    monkeypatch.delenv("FLOTILLA_TOKEN", raising=False)
    target.read_local_stack_status.cache_clear()
    yield tmp_path
    target.read_local_stack_status.cache_clear()


@pytest.fixture
def stack(home: Path) -> Path:
    """The status file of a stack, as if it had run and its gateway were still at LOCAL."""
    keys = home / "keys.json"
    keys.write_text(json.dumps({"admin": "k-admin", "alice": "k-alice", "bob": "k-bob"}))
    status: dict[str, Any] = {
        "url": LOCAL,
        "keys_file": str(keys),
        "processes": [],
        "state": "ready",
        "supervisor": None,
    }
    (home / "status.json").write_text(json.dumps(status))
    return home


@pytest.mark.usefixtures("home")
def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_URL", "http://env:1")
    monkeypatch.setenv("FLOTILLA_TOKEN", "env-token")
    assert resolve_target(ConnectionOptions(), "alice") == GatewayTarget("http://env:1", "env-token")
    assert resolve_target(ConnectionOptions("https://flag", "flag-token"), "alice") == GatewayTarget(
        "https://flag", "flag-token"
    )


@pytest.mark.usefixtures("home")
def test_the_default_address_is_the_contracts() -> None:
    assert resolve_target(ConnectionOptions(token="t"), "alice").url == DEFAULT_URL == "http://127.0.0.1:8080"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://x:port",
        "http://x:99999999",
        "http://x:-1",
        "http://x:0",
        "//x",
        "\\udcff",
    ],
)
def test_what_is_not_an_address_is_misuse(url: str) -> None:
    with pytest.raises(Misuse):
        resolve_target(ConnectionOptions(url, None), "alice")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "connection", [ConnectionOptions(), ConnectionOptions(url=""), ConnectionOptions(acts_as="bob")]
)
def test_where_no_stack_runs_it_reports_it_and_how_to_start_one(connection: ConnectionOptions) -> None:
    with pytest.raises(NotFound, match="no local stack is running") as caught:
        resolve_target(connection, "alice")
    assert "flotilla up" in caught.value.hint


@pytest.mark.usefixtures("stack")
def test_a_stopped_stack_is_not_asked_in_vain() -> None:
    with pytest.raises(NotFound, match="it is stopped") as caught:
        resolve_target(ConnectionOptions(), "alice")
    assert "flotilla up" in caught.value.hint


@pytest.mark.usefixtures("stack")
def test_the_local_stacks_keys_are_used_for_its_address() -> None:
    assert resolve_target(ConnectionOptions(LOCAL), "alice") == GatewayTarget(LOCAL, "k-alice", "alice")
    assert resolve_target(ConnectionOptions("http://localhost:8931/"), "admin").token == "k-admin"
    assert resolve_target(ConnectionOptions(LOCAL, acts_as="bob"), "alice").token == "k-bob"


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("url", ["http://127.0.0.1:9999", "https://127.0.0.1:8931", "http://flotilla.example:8931"])
def test_a_local_key_is_never_sent_elsewhere(url: str) -> None:
    with pytest.raises(Misuse, match="no token"):
        resolve_target(ConnectionOptions(url), "alice")


@pytest.mark.usefixtures("stack")
def test_a_person_asked_for_goes_before_a_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOTILLA_TOKEN", "env-token")
    assert resolve_target(ConnectionOptions(LOCAL, acts_as="bob"), "alice").token == "k-bob"
    assert resolve_target(ConnectionOptions(LOCAL), "alice").token == "env-token"


@pytest.mark.usefixtures("stack")
def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(Misuse) as caught:
        resolve_target(ConnectionOptions(LOCAL, acts_as="carol"), "alice")
    assert caught.value.hint == "--as takes one of: admin, alice, bob"


@pytest.mark.usefixtures("stack")
def test_a_stopped_stacks_address_is_not_the_default() -> None:
    assert target.local_gateway_url() is None, "its supervisor is gone, so it does not run"


def test_keys_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="cannot read"):
        read_local_keys(tmp_path / "missing.json")
    broken = tmp_path / "keys.json"
    broken.write_text("[]")
    with pytest.raises(CliError, match="not a JSON object"):
        read_local_keys(broken)


def test_all_names_of_loopback_are_one_address() -> None:
    assert is_same_server("http://localhost:80", "http://127.0.0.1")
    assert is_same_server("http://[::1]:8080/", "http://127.0.0.1:8080")
    assert not is_same_server("http://127.0.0.1:8080", "http://10.0.0.1:8080")
