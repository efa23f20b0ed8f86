"""`flotilla backup` on the running fleet, as people and scripts use it."""

import json
import stat
from pathlib import Path

from tests.e2e.fleet import Fleet


def test_a_backup_of_the_running_fleet_is_good_and_is_not_restored_over_it(fleet: Fleet, tmp_path: Path) -> None:
    passphrase, key, backup = tmp_path / "passphrase", tmp_path / "encryption.key", tmp_path / "backup"
    for file, text in ((passphrase, "a passphrase of many words"), (key, "the root key of encryption")):
        file.write_text(text)
        file.chmod(0o600)
    created = fleet.cli_json(
        "backup", "create", str(backup), "--passphrase-file", str(passphrase), "--key-file", str(key)
    )
    assert set(created["keys"]) >= {"audit-signing.pem", "tickets.pem", "keys.json", "encryption.key"}
    assert (created["temporal"], created["keys_by_reference"]) == (True, [])
    assert {stat.S_IMODE(path.stat().st_mode) for path in backup.rglob("*") if path.is_file()} == {0o600}
    verified = fleet.cli_json("backup", "verify", str(backup))
    assert (verified["ok"], verified["signatures_checked"], verified["problems"]) == (True, True, [])
    refused = fleet.cli("backup", "restore", str(backup), "--passphrase-file", str(passphrase), check=False)
    assert refused.returncode == 1
    assert "is not empty, so nothing was changed" in refused.stderr
    first = next(path for path in backup.rglob("*.copy.gz") if path.stat().st_size > 100)
    content = first.read_bytes()
    first.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    bad = fleet.cli("backup", "verify", str(backup), "-o", "json", check=False)
    assert (bad.returncode, json.loads(bad.stdout)["ok"]) == (1, False)
