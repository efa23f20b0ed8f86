"""Another root key of the fleet that the environment names, or of the local stack."""

import asyncio
import os
from pathlib import Path
from typing import Any

import psycopg

from flotilla.config import PostgresSettings, RootKeySettings, load_settings
from flotilla.contracts.errors import ConfigurationError
from flotilla.encryption import open_root_keys
from flotilla.install.root_keys import rotate_root_key
from flotilla.postgres.connecting import libpq_dsn
from flotilla_cli.errors import CliError, Misuse
from flotilla_cli.local.stack import devstack_errors, state_folder
from flotilla_devstack import Stack
from flotilla_devstack.folders import StateDir


def rotate_root(key_file: Path | None, state: Path | None) -> dict[str, Any]:
    """Wrap all tenants' keys by the root key that the environment names, else by the first key of the file."""
    try:
        roots = open_root_keys(load_settings(RootKeySettings, encryption_key_file=key_file))
        if roots is None:
            raise Misuse("--key-file FILE is required, or a provider in the environment (docs/key-providers.md)")
        with devstack_errors():
            root_id, tenants = asyncio.run(rotate_root_key(_dsn(state), roots))
    except ConfigurationError as error:
        raise Misuse(str(error)) from error
    except psycopg.Error as error:
        raise CliError(f"PostgreSQL refused: {error}", "connect as the role that installs the fleet") from error
    return {"root_id": root_id, "tenants": tenants}


def _dsn(state: Path | None) -> str:
    if os.environ.get("FLOTILLA_POSTGRES_DSN"):
        settings = load_settings(PostgresSettings)
        return libpq_dsn(settings.postgres_dsn.get_secret_value(), settings.postgres_ca_file)
    with Stack.attach(StateDir(state_folder(state)).root) as stack:
        return libpq_dsn(stack.environment(user="postgres")["FLOTILLA_POSTGRES_DSN"])
