"""Which root keys the settings ask for: a file, Vault, an installed package, or one of these after a file."""

import re
from pathlib import Path
from typing import Any

import pytest

from flotilla.agent import AgentSettings
from flotilla.config import EncryptionSettings, RootKeySettings, load_settings
from flotilla.contracts.errors import ConfigurationError
from flotilla.encryption import KeyFile, create_key_file, open_root_keys
from flotilla.encryption.vault import VaultTransit
from tests.support.packages import installed, write_package

CONTEXT = "key of tenant acme"
OWN = """
class Drawer:
    current_id = "drawer:1"

    async def wrap(self, key, context):
        return bytes(reversed(key)) + context.encode()

    async def unwrap(self, root_id, wrapped, context):
        return bytes(reversed(wrapped[:32]))
"""


def vault(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"encryption_vault_url": "http://vault:8200", "encryption_vault_token_file": tmp_path / "token", **more}


def test_without_a_setting_there_are_no_root_keys() -> None:
    assert open_root_keys(RootKeySettings()) is None


def test_vault_is_named_by_mount_and_key(tmp_path: Path) -> None:
    named = {"encryption_vault_mount": "team/transit", "encryption_vault_key": "fleet-2"}
    roots = open_root_keys(RootKeySettings(**vault(tmp_path, **named)))
    assert isinstance(roots, VaultTransit)
    assert roots.current_id == "vault:team/transit/fleet-2"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"encryption_vault_url": "http://vault:8200"}, "needs FLOTILLA_ENCRYPTION_VAULT_TOKEN_FILE"),
        ({"encryption_vault_url": "vault:8200"}, "FLOTILLA_ENCRYPTION_VAULT_URL"),
        ({"encryption_vault_key": "a/b"}, "FLOTILLA_ENCRYPTION_VAULT_KEY"),
        ({"encryption_vault_mount": "../sys"}, "FLOTILLA_ENCRYPTION_VAULT_MOUNT"),
        ({"encryption_vault_mount": "a//b"}, "FLOTILLA_ENCRYPTION_VAULT_MOUNT"),
        ({"encryption": "on"}, "needs root keys"),
    ],
)
def test_settings_that_can_not_work_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        load_settings(EncryptionSettings, **given)


def test_two_providers_beside_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        load_settings(RootKeySettings, **vault(tmp_path, encryption_provider="drawer"))


async def test_an_installed_package_is_a_provider_and_a_file_opens_what_it_wrapped_before(tmp_path: Path) -> None:
    write_package(tmp_path, "drawer", OWN, {"flotilla.root_keys": {"drawer": "drawer:Drawer"}})
    create_key_file(tmp_path / "root.keys")
    file = KeyFile(tmp_path / "root.keys")
    before = await file.wrap(b"k" * 32, CONTEXT)
    with installed(tmp_path, "drawer"):
        roots = open_root_keys(
            RootKeySettings(encryption_provider="drawer", encryption_key_file=tmp_path / "root.keys")
        )
        assert roots is not None
        assert roots.current_id == "drawer:1"
        assert await roots.unwrap(file.current_id, before, CONTEXT) == b"k" * 32
        wrapped = await roots.wrap(bytes(range(32)), CONTEXT)
        assert wrapped.endswith(CONTEXT.encode())
        assert await roots.unwrap("drawer:1", wrapped, CONTEXT) == bytes(range(32))
        with pytest.raises(ConfigurationError, match=re.escape("no package has it; installed: drawer")):
            open_root_keys(RootKeySettings(encryption_provider="shelf"))


def test_a_package_that_can_not_be_imported_is_named(tmp_path: Path) -> None:
    write_package(tmp_path, "broken", "", {"flotilla.root_keys": {"broken": "broken:Missing"}})
    with installed(tmp_path, "broken"), pytest.raises(ConfigurationError, match="broken:Missing"):
        open_root_keys(RootKeySettings(encryption_provider="broken"))


def test_an_agent_that_encrypts_needs_the_workers_address(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "postgres_dsn": "postgresql://a@b/c",
        "redis_url": "redis://r",
        "ticket_public_key_file": tmp_path / "t",
    }
    create_key_file(tmp_path / "root.keys")
    with pytest.raises(ConfigurationError, match="needs FLOTILLA_SESSION_KEYS_URL at an agent"):
        load_settings(AgentSettings, **given, encryption="on", encryption_key_file=tmp_path / "root.keys")
    with pytest.raises(ConfigurationError, match="FLOTILLA_SESSION_KEYS_URL"):
        load_settings(AgentSettings, **given, session_keys_url="worker:8081")
    assert load_settings(AgentSettings, **given, encryption="on", session_keys_url="http://w:8081").encryption == "on"
