"""A backup is one point of a fleet that goes on, verifies alone, and is a fleet again."""

import gzip
import json
import os
import stat
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest

from flotilla.backup.manifest import MANIFEST, SIGNATURE
from flotilla.backup.private_files import put_private
from flotilla.backup.table_restore import MADE_BY_INSTALL
from flotilla.backup.tables import LEFT_OUT, SCHEMAS, Progress, is_copied
from flotilla.config.signing import load_signer
from flotilla.contracts.errors import ConfigurationError, Conflict, Invalid, Refused
from flotilla.postgres import Pool, open_pool
from tests.integration.backup.saved import PASSPHRASE, Stores, passphrase_file
from tests.support.audit import Projected, events_of, publish
from tests.support.postgres import Database
from tests.support.session_events import append_messages, read_topic

COUNTED = """
SELECT format('%s.%s', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = ANY ($1) ORDER BY 1
"""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def contents(database: Database) -> dict[str, Sequence[str]]:
    """Every row of every table that belongs to a backup, as text."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        names = [row["name"] for row in await connection.fetch(COUNTED, SCHEMAS) if is_copied(row["name"])]
        return {
            name: sorted(row["row"] for row in await connection.fetch(f"SELECT t::text AS row FROM {name} AS t"))
            for name in names
        }
    finally:
        await connection.close()


async def test_a_restored_fleet_is_the_one_that_was_backed_up_and_goes_on(
    saved: Stores, another: Stores, tmp_path: Path
) -> None:
    manifest = await saved.back_up(tmp_path / "backup")
    verdict = saved.verify(tmp_path / "backup")
    assert (verdict.ok, verdict.sessions, verdict.events, verdict.signatures_checked) == (True, 10, 50, True)
    before = await contents(saved.database)
    restored = await another.restore(tmp_path / "backup")
    assert (restored.was_done, restored.manifest.backup_id) == (False, manifest.backup_id)
    assert await contents(another.database) == before
    there, here = await read_topic(saved.kafka), await read_topic(another.kafka)
    assert [(r.partition, r.offset, r.key, r.body, r.headers) for r in here] == [
        (r.partition, r.offset, r.key, r.body, r.headers) for r in there
    ]
    async with open_pool(another.database.dsn(), application="test") as pool, Projected(another.database) as found:
        await append_messages(pool, "s1", ["after the restore"])
        await another.until_settled(found)
        assert await found.seqs("s1") == [1, 2, 3, 4, 5, 6, 7]
        assert await found.parked("s1") == []
    audited = await another.audited()
    assert audited.ok, audited.problems


async def test_what_kafka_has_and_the_snapshot_has_not_is_cut_and_named(
    saved: Stores, another: Stores, tmp_path: Path
) -> None:
    # As if these had been committed after the snapshot, and relayed before Kafka was read.
    await publish(saved.kafka, events_of("s1", [7, 8]) + events_of("later", [1]) + events_of("s2", [6]))
    manifest = await saved.back_up(tmp_path / "backup")
    assert manifest.as_json_object()["cut"] == 4
    with gzip.open(tmp_path / "backup" / manifest.cut.name) as file:
        cut = {(one["session_id"], one["seq"]) for one in map(json.loads, file)}
    assert cut == {("s1", 7), ("s1", 8), ("later", 1), ("s2", 6)}
    await another.restore(tmp_path / "backup")
    async with open_pool(another.database.dsn(), application="test") as pool, Projected(another.database) as found:
        await append_messages(pool, "s2", ["another sixth"])
        await another.until_settled(found)
        assert (await found.seqs("s2"), await found.parked("s2")) == ([1, 2, 3, 4, 5, 6], [])
    audited = await another.audited()
    assert audited.ok, audited.problems


async def test_a_restore_that_stopped_anywhere_goes_on(saved: Stores, another: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "backup")

    class Stopped(Exception):
        pass

    def stopping_at(place: str) -> Progress:
        def progress(what: str, _done: int, _total: int) -> None:
            if what == place:
                raise Stopped

        return progress

    topic = another.kafka.kafka_session_events_topic
    for place in ("table flotilla.runs", f"{topic}-5", f"comparing {topic}-2"):
        with pytest.raises(Stopped):
            await another.restore(tmp_path / "backup", stopping_at(place))
    await another.restore(tmp_path / "backup")
    assert await contents(another.database) == await contents(saved.database)
    assert len(await read_topic(another.kafka)) == len(await read_topic(saved.kafka))
    again = await another.restore(tmp_path / "backup")
    assert again.was_done


async def test_a_fleet_that_is_not_empty_is_left_as_it_is(saved: Stores, another: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "first")
    before = await contents(saved.database)
    with pytest.raises(Refused, match=r"not empty.*rows in audit\."):
        await saved.restore(tmp_path / "first")
    assert await contents(saved.database) == before
    await publish(saved.kafka, [])
    into_used_topics = Stores(another.database, saved.kafka, saved.folder)
    with pytest.raises(Refused, match="has, or had, 50 records"):
        await into_used_topics.restore(tmp_path / "first")


async def test_a_second_backup_is_not_restored_over_the_first(saved: Stores, another: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "first")
    await saved.back_up(tmp_path / "second")
    await another.restore(tmp_path / "first")
    with pytest.raises(Refused, match="restored before"):
        await another.restore(tmp_path / "second")


async def test_services_that_run_keep_a_restore_from_beginning(saved: Stores, another: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "backup")
    async with open_pool(another.database.dsn("flotilla_worker"), application="workflow-worker") as pool:
        await pool.fetchval("SELECT 1")
        with pytest.raises(Refused, match="connections of flotilla_worker"):
            await another.restore(tmp_path / "backup")


async def test_services_that_run_keep_a_killed_restore_from_going_on(
    saved: Stores, another: Stores, tmp_path: Path
) -> None:
    await saved.back_up(tmp_path / "backup")

    class Stopped(Exception):
        pass

    def stop(what: str, _done: int, _total: int) -> None:
        if what == "table flotilla.runs":
            raise Stopped

    with pytest.raises(Stopped):
        await another.restore(tmp_path / "backup", stop)
    async with open_pool(another.database.dsn("flotilla_worker"), application="workflow-worker") as pool:
        await pool.fetchval("SELECT 1")
        with pytest.raises(Refused, match=r"connections of flotilla_worker.*stop the services"):
            await another.restore(tmp_path / "backup")


@pytest.mark.parametrize("name", ["postgres/flotilla.sessions.copy.gz", "keys/sealed"])
async def test_a_file_that_is_exchanged_after_it_was_checked_is_not_believed(
    saved: Stores, another: Stores, tmp_path: Path, name: str
) -> None:
    """By somebody who can write to where backups are kept."""
    backup = tmp_path / "backup"
    await saved.back_up(backup)
    hashes = 0

    def exchange(what: str, done: int, total: int) -> None:
        nonlocal hashes
        hashes += what == "hashes"
        if what == "hashes" and done == total - 1:  # its last file is a public key
            file = backup / name
            content = file.read_bytes()
            if name.endswith(".gz"):
                file.write_bytes(gzip.compress(gzip.decompress(content).replace(b"default", b"another")))
            else:
                file.write_bytes(content[:-1])

    with pytest.raises(Invalid, match="was changed while it was read"):
        await another.restore(backup, exchange)
    assert hashes > 1
    if name.endswith(".gz"):
        assert (await contents(another.database))["flotilla.sessions"] == []


async def test_a_file_of_public_keys_that_holds_more_by_now_stays(
    saved: Stores, another: Stores, tmp_path: Path
) -> None:
    """A restore that was killed after new keys were added goes on."""
    await saved.back_up(tmp_path / "backup")
    restored = saved.folder / "restored"
    restored.mkdir()
    both = (saved.folder / "audit.pub").read_bytes() + (saved.folder / "backup.pub").read_bytes()
    (restored / "audit.pub").write_bytes(both)
    await another.restore(tmp_path / "backup")
    assert (restored / "audit.pub").read_bytes() == both


async def test_a_place_that_can_not_be_written_is_named(saved: Stores, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"file/backup can't be written"):
        await saved.back_up(tmp_path / "file" / "backup")


def test_a_private_file_is_written_over_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / f".key.pem.{os.getpid()}").write_text("half a k")
    put_private(tmp_path / "key.pem", b"key")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key.pem": b"key"}


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing", "manifest"])
async def test_a_backup_that_is_not_what_was_signed_is_refused(
    saved: Stores, another: Stores, tmp_path: Path, damage: str
) -> None:
    backup = tmp_path / "backup"
    await saved.back_up(backup)
    file = backup / "postgres" / "flotilla.sessions.copy.gz"
    whole = file.read_bytes()
    if damage == "changed":
        file.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
    elif damage == "shorter":
        file.write_bytes(whole[:-1])
    elif damage == "missing":
        file.unlink()
    else:
        (backup / MANIFEST).write_text((backup / MANIFEST).read_text().replace('"rows":', '"rows": ', 1))
    assert not saved.verify(backup).ok
    with pytest.raises(Refused, match="not what was signed"):
        await another.restore(backup)


async def test_a_history_that_was_rewritten_in_the_backup_is_found_without_a_fleet(
    saved: Stores, tmp_path: Path
) -> None:
    """By somebody who can sign backups, but not checkpoints."""
    backup = tmp_path / "backup"
    manifest = await saved.back_up(backup)
    events = manifest.find_table("audit.session_events")
    assert events is not None
    file = backup / events.file.name
    old = gzip.decompress(file.read_bytes())
    forged = gzip.compress(old.replace(b"m3".hex().encode(), b"M3".hex().encode()))
    file.write_bytes(forged)
    text = (backup / MANIFEST).read_text().replace(events.file.sha256, sha256(forged).hexdigest())
    text = text.replace(f'"size_bytes":{events.file.size_bytes}', f'"size_bytes":{len(forged)}')
    signature = load_signer(saved.folder / "backup.pem").sign(b"flotilla-backup\n" + text.encode())
    (backup / MANIFEST).write_text(text)
    signed = json.loads((backup / SIGNATURE).read_text())
    (backup / SIGNATURE).write_text(json.dumps({**signed, "signature": b64encode(signature).decode()}))
    verdict = saved.verify(backup)
    assert any("session s1 event 3: edited" in problem for problem in verdict.problems), verdict.problems


async def test_private_keys_are_never_in_clear(saved: Stores, another: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "sealed")
    await saved.back_up(tmp_path / "referred", backup_passphrase_file=None)
    key = (saved.folder / "audit.pem").read_bytes()
    secret = key.splitlines()[1]
    for file in (path for name in ("sealed", "referred") for path in (tmp_path / name).rglob("*") if path.is_file()):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert secret not in content, file
        assert PASSPHRASE.encode() not in content, file
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    wrong = tmp_path / "elsewhere"
    wrong.mkdir()
    with pytest.raises(Invalid, match="passphrase"):
        await another.restore(tmp_path / "sealed", backup_passphrase_file=passphrase_file(wrong, "x" * 20))
    restored = await another.restore(tmp_path / "sealed")
    assert (saved.folder / "restored" / "audit.pem") in restored.keys
    assert (saved.folder / "restored" / "audit.pem").read_bytes() == key
    assert stat.S_IMODE((saved.folder / "restored" / "audit.pem").stat().st_mode) == 0o600


async def test_a_passphrase_file_that_others_can_read_is_refused(saved: Stores, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = passphrase_file(tmp_path / "elsewhere")
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        await saved.back_up(tmp_path / "backup", backup_passphrase_file=file)
    assert not (tmp_path / "backup").exists()


async def test_the_backups_role_reads_every_row_and_changes_nothing(saved: Stores, pool: Pool) -> None:
    del pool
    connection = await asyncpg.connect(saved.database.dsn("flotilla_backup"))
    owner = await asyncpg.connect(saved.database.superuser_dsn)
    try:
        names = [row["name"] for row in await owner.fetch(COUNTED, SCHEMAS) if is_copied(row["name"])]
        assert len(names) > 60
        for name in names:
            count = f"SELECT count(*) FROM {name}"
            assert await connection.fetchval(count) == await owner.fetchval(count), name
            for statement in (f"DELETE FROM {name}", f"TRUNCATE {name}", f"INSERT INTO {name} DEFAULT VALUES"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        assert {"flotilla.sessions", "audit.session_events"} <= set(names)
        assert not MADE_BY_INSTALL & LEFT_OUT
    finally:
        await connection.close()
        await owner.close()


async def test_a_role_that_does_not_see_every_row_creates_no_backup(saved: Stores, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"may not read everything|row level security"):
        await saved.back_up(tmp_path / "backup", postgres_dsn=saved.database.dsn("flotilla_gateway"))
    assert not {"backup", "backup.partial"} & names_in(tmp_path)


async def test_a_backup_overwrites_nothing(saved: Stores, tmp_path: Path) -> None:
    await saved.back_up(tmp_path / "backup")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "backup").rglob("*"))
    with pytest.raises((Refused, Conflict), match="exists"):
        await saved.back_up(tmp_path / "backup")
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "backup").rglob("*")) == before


@pytest.mark.parametrize("table", ["sign_ins", "browser_tokens"])
async def test_the_backups_role_reads_no_logins(saved: Stores, table: str) -> None:
    async with open_pool(saved.database.dsn("flotilla_backup"), application="test") as pool:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(f"SELECT * FROM flotilla.{table}")
