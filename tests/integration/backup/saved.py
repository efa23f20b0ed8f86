"""A fleet's stores with a history, and an empty place to restore them into."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from flotilla.audit.verify import HistoryVerifier, Verdict
from flotilla.backup.create import create_backup
from flotilla.backup.manifest import Manifest
from flotilla.backup.restore import Restored, restore_backup
from flotilla.backup.settings import BackupSettings, RestoreSettings
from flotilla.backup.tables import Progress
from flotilla.backup.verify import BackupVerdict, verify_backup
from flotilla.config import KafkaSettings
from flotilla.config.signing import create_key_pair, load_public_keys
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool, open_pool
from flotilla_devstack import RunningStack
from tests.support.audit import Projected, audit_settings, relay_all, running_audit, until_anchored
from tests.support.postgres import Database, drop, with_database
from tests.support.session_events import append_messages

PASSPHRASE = "correct horse battery staple"


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class Stores:
    """PostgreSQL and Kafka of one fleet."""

    database: Database
    kafka: KafkaSettings
    folder: Path
    """Where its keys are."""

    def places(self, role: str) -> dict[str, str]:
        """The settings that say where they are."""
        return {
            "postgres_dsn": self.database.dsn(role),
            "kafka_bootstrap_servers": self.kafka.kafka_bootstrap_servers,
            "kafka_session_events_topic": self.kafka.kafka_session_events_topic,
            "kafka_checkpoints_topic": self.kafka.kafka_checkpoints_topic,
        }

    async def back_up(self, to: Path, **changes: object) -> Manifest:
        create_key_pair(self.folder / "backup.pem", self.folder / "backup.pub")
        given: dict[str, object] = {
            **self.places("flotilla_backup"),
            "backup_signing_key_file": self.folder / "backup.pem",
            "backup_keys": (self.folder / "audit.pem",),
            "backup_public_keys": (self.folder / "audit.pub",),
            "backup_passphrase_file": passphrase_file(self.folder),
        }
        return await create_backup(BackupSettings(**{**given, **changes}), to, silent)  # type: ignore[arg-type]

    def verify(self, backup: Path) -> BackupVerdict:
        keys = load_public_keys(self.folder / "backup.pub")
        return verify_backup(backup, keys, load_public_keys(self.folder / "audit.pub"), silent)

    async def restore(self, backup: Path, progress: Progress = silent, **changes: object) -> Restored:
        """Restore into these stores; the backup's key is the one beside them."""
        given: dict[str, object] = {
            **self.places("postgres"),
            "backup_public_key_file": self.folder / "backup.pub",
            "backup_passphrase_file": passphrase_file(self.folder),
            "backup_restore_keys_to": self.folder / "restored",
        }
        return await restore_backup(RestoreSettings(**{**given, **changes}), backup, progress)  # type: ignore[arg-type]

    async def until_settled(self, projected: Projected) -> None:
        """Move the outbox to Kafka, project and sign all of it."""
        await relay_all(self.database, self.kafka)
        async with running_audit(audit_settings(self.database, self.kafka, self.folder)), log_of(self.kafka) as log:
            await projected.until_offsets(sum((await log.read_end_offsets()).values()))
            await until_anchored(projected)

    async def audited(self) -> Verdict:
        """What `audit verify` finds, with Kafka as a witness."""
        async with (
            open_pool(self.database.dsn(), application="test") as pool,
            open_kafka_log(self.kafka) as log,
        ):
            return await HistoryVerifier(
                pool, "default", load_public_keys(self.folder / "audit.pub"), log
            ).verify_sessions(None)


log_of = open_kafka_log


def passphrase_file(folder: Path, text: str = PASSPHRASE) -> Path:
    file = folder / "passphrase"
    file.write_text(text)
    file.chmod(0o600)
    return file


@pytest.fixture
async def saved(database: Database, pool: Pool, kafka: KafkaSettings, projected: Projected, tmp_path: Path) -> Stores:
    """Ten sessions of two tenants, projected and signed; one has an event that is still in the outbox."""
    stores = Stores(database, kafka, tmp_path)
    for number in range(10):
        tenant = "acme" if number % 5 == 0 else "default"
        await append_messages(pool, f"s{number}", [f"m{seq}" for seq in range(1, 6)], tenant)
    await stores.until_settled(projected)
    await append_messages(pool, "s1", ["not relayed yet"])
    return stores


@pytest.fixture
async def another(
    stack: RunningStack, kafka_bootstrap: str, unique: Callable[[str], str], saved: Stores
) -> AsyncIterator[Stores]:
    """An empty database without a schema, and topics that do not exist yet; the keys are those of `saved`."""
    server, name = stack.postgres_dsn("postgres"), unique("flotilla_restored")
    connection = await asyncpg.connect(server)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    topic = unique("restored")
    settings = KafkaSettings(
        kafka_bootstrap_servers=kafka_bootstrap,
        kafka_session_events_topic=topic,
        kafka_checkpoints_topic=f"{topic}-checkpoints",
    )
    yield Stores(Database(with_database(server, name)), settings, saved.folder)
    await drop(server, name)
