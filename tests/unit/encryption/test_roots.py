"""The file of root keys: who may read it, what it holds, and how one key takes the place of another."""

from pathlib import Path

import pytest

from flotilla.config import EncryptionSettings, load_settings
from flotilla.contracts.errors import ConfigurationError
from flotilla.encryption import KeyFile, create_key_file


async def test_what_a_former_key_wrapped_is_read_after_the_rotation(tmp_path: Path) -> None:
    path = tmp_path / "root.keys"
    first = create_key_file(path)
    keys = KeyFile(path)
    wrapped = await keys.wrap(b"k" * 32, "key of tenant acme")
    second = create_key_file(path)
    rotated = KeyFile(path)
    assert (keys.current_id, rotated.current_id) == (first, second)
    assert await rotated.unwrap(first, wrapped, "key of tenant acme") == b"k" * 32
    # A process that started before looks into the file again.
    assert await keys.unwrap(second, await rotated.wrap(b"n" * 32, "c"), "c") == b"n" * 32


async def test_a_wrapped_key_cant_be_moved_to_another_tenant(tmp_path: Path) -> None:
    create_key_file(tmp_path / "root.keys")
    keys = KeyFile(tmp_path / "root.keys")
    wrapped = await keys.wrap(b"k" * 32, "key of tenant acme")
    with pytest.raises(ConfigurationError, match="did not wrap"):
        await keys.unwrap(keys.current_id, wrapped, "key of tenant globex")
    with pytest.raises(ConfigurationError, match="does not hold root key 0000"):
        await keys.unwrap("0000", wrapped, "key of tenant acme")


@pytest.mark.parametrize("mode", [0o604, 0o640 | 0o001, 0o620, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    create_key_file(tmp_path / "root.keys")
    (tmp_path / "root.keys").chmod(mode)
    with pytest.raises(ConfigurationError, match="has mode"):
        KeyFile(tmp_path / "root.keys")


@pytest.mark.parametrize("text", ["", "short", "bm90IDMyIGJ5dGVz", "####"])
def test_a_file_without_whole_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "root.keys").touch(mode=0o600)
    (tmp_path / "root.keys").write_text(text)
    with pytest.raises(ConfigurationError, match=r"32 bytes|not base64"):
        KeyFile(tmp_path / "root.keys")


def test_a_missing_file_and_a_missing_setting_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't be read"):
        KeyFile(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="needs root keys: FLOTILLA_ENCRYPTION_KEY_FILE"):
        load_settings(EncryptionSettings, encryption="on")


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    create_key_file(tmp_path / "keys" / "root.keys")
    assert (tmp_path / "keys" / "root.keys").stat().st_mode & 0o777 == 0o600
