"""What a backup and a restore need to know of the fleet, beside where its servers are."""

from pathlib import Path

from pydantic import Field, SecretStr

from flotilla.config import KafkaSettings, Paths, PostgresSettings, RootKeySettings


class BackupSettings(PostgresSettings, KafkaSettings):
    """Settings of `python -m flotilla.backup create`: the DSN's role is `flotilla_backup`."""

    backup_signing_key_file: Path
    """The private key (Ed25519, PEM) that signs backups: one of their own."""
    backup_keys: Paths = ()
    """Key files that a restored fleet needs, comma-separated: those that sign, and root keys."""
    backup_passphrase_file: Path | None = None
    """With it the backup holds the key files, encrypted; without it their names and hashes only. Mode 0600."""
    backup_public_keys: Paths = ()
    """Public keys that verify the fleet's checkpoints, comma-separated; they are kept as they are."""
    backup_temporal_file: Path | None = None
    """Temporal's database where it is a file (its development server's)."""


class TenantExportSettings(PostgresSettings, RootKeySettings):
    """Settings of `python -m flotilla.backup export-tenant`: the DSN's role is `flotilla_backup`. Without root keys the
    export holds the tenant's key as it is wrapped here, and the other fleet needs the same root key."""

    backup_signing_key_file: Path
    """The private key (Ed25519, PEM) that signs backups and exports: one of their own."""
    backup_passphrase_file: Path | None = None
    """Encrypts the tenant's key in the export. Mode 0600."""


class TenantImportSettings(PostgresSettings, RootKeySettings):
    """Settings of `python -m flotilla.backup import-tenant`: the DSN's role owns the database. This fleet's root keys
    wrap the tenant's key from now on."""

    backup_public_key_file: Path
    """Public keys (PEM) of those who may sign exports."""
    backup_passphrase_file: Path | None = None


class RestoreSettings(PostgresSettings, KafkaSettings):
    """Settings of `python -m flotilla.backup restore`: the DSN's role owns the empty database."""

    backup_public_key_file: Path
    """Public keys (PEM) of those who may sign backups."""
    backup_passphrase_file: Path | None = None
    backup_restore_keys_to: Path | None = None
    """A folder for the key files and Temporal's database; the operator puts them into place."""
    kafka_replication_factor: int | None = Field(default=None, ge=1)
    """Of the topics; by default 3, or the number of brokers where there are fewer."""
    temporal_address: str | None = None
    """Where set, Temporal is asked whether it has open workflows: then the fleet is not empty. Leave it out where
    Temporal was restored from a backup of its own."""
    redis_url: SecretStr | None = None
    """Where set, Redis is asked whether it holds work of another fleet."""
