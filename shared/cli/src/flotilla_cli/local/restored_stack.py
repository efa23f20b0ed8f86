"""Restores a backup into a local stack that does not exist yet."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from flotilla.backup.files import problem_of
from flotilla.backup.manifest import Manifest
from flotilla.backup.private_files import OWNER_ONLY_FOLDER, put_private
from flotilla.backup.restore import Restored, read_verified_manifest, restore_backup
from flotilla.backup.settings import RestoreSettings
from flotilla.backup.tables import Progress
from flotilla.config import load_settings
from flotilla.config.signing import create_key_pair
from flotilla.contracts.errors import Refused
from flotilla_devstack import Stack
from flotilla_devstack.folders import StateDir, StateLock, write_atomically

SERVERS = ("postgres", "kafka")
_NOWHERE = {"postgres_dsn": "postgresql://localhost/flotilla", "kafka_bootstrap_servers": "localhost:9092"}
_MAY_BE_THERE = frozenset({"logs", "lock", "restore.json"})
"""In the folder of a stack that nothing was started in."""


def restored_stack(state: StateDir, folder: Path, given: dict[str, Any], progress: Progress) -> Restored:
    """Make a stack's folder from a backup, with its PostgreSQL and Kafka running meanwhile.

    Raises:
        Refused: the backup is not what was signed; the folder holds another stack.
    """
    signed = read_verified_manifest(load_settings(RestoreSettings, **_NOWHERE, **given), folder, progress)
    manifest = signed.manifest
    if _begin(state, manifest) == "finished":
        return Restored(manifest, was_done=True, keys=[])
    with Stack(state.root, SERVERS) as stack:
        settings = load_settings(
            RestoreSettings,
            postgres_dsn=stack.postgres_dsn(),
            **stack.kafka_settings(),
            backup_restore_keys_to=state.root,
            **given,
        )
        restored = asyncio.run(restore_backup(settings, folder, progress, verified=signed))
    _place_temporal(state, folder, manifest)
    _replace_missing_keys(state)
    _mark(state, manifest, "finished")
    return Restored(manifest, was_done=False, keys=restored.keys)


def _begin(state: StateDir, manifest: Manifest) -> str:
    """How far this restore had come: `begun` or `finished`."""
    marked = _marked(state)
    if marked is not None and marked["backup_id"] == manifest.backup_id:
        return marked["state"]
    found = (
        sorted(path.name for path in state.root.iterdir() if path.name not in _MAY_BE_THERE)
        if state.root.exists()
        else []
    )
    if marked is not None or found or StateLock(state.lock_file).held():
        what = f"backup {marked['backup_id']}, restored before" if marked else ", ".join(found) or "a stack that starts"
        raise Refused(
            f"{state.root} is not empty, so nothing was changed. It holds {what}: name a new folder by --state"
        )
    state.create_folders()
    _mark(state, manifest, "begun")
    return "begun"


def _marked(state: StateDir) -> dict[str, str] | None:
    file = state.root / "restore.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def _mark(state: StateDir, manifest: Manifest, how_far: str) -> None:
    text = json.dumps({"backup_id": manifest.backup_id, "state": how_far, "point": manifest.point})
    write_atomically(state.root / "restore.json", text + "\n")


def _place_temporal(state: StateDir, folder: Path, manifest: Manifest) -> None:
    if manifest.temporal is None or state.temporal_file.exists():
        return
    state.temporal_file.parent.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    unfinished = state.temporal_file.with_name(".restoring.db")
    shutil.copy(folder / manifest.temporal.name, unfinished)
    if problem_of(unfinished.parent, replace(manifest.temporal, name=unfinished.name)):
        raise Refused(f"{manifest.temporal.name} of the backup was changed while it was read")
    unfinished.replace(state.temporal_file)


def _replace_missing_keys(state: StateDir) -> None:
    """Where the backup has no private keys: new ones, and the public ones of both, so that old signatures count."""
    for private, public in (
        (state.signing_key_file, state.public_key_file),
        (state.ticket_key_file, state.ticket_public_key_file),
    ):
        if private.exists():
            continue
        old = public.read_bytes() if public.exists() else b""
        # In this order a kill in between loses no old key, and makes the next run go on with the same new one.
        fresh, fresh_public = (file.with_name(f".{file.name}.fresh") for file in (private, public))
        create_key_pair(fresh, fresh_public)
        if (new := fresh_public.read_bytes()) not in old:
            put_private(public, old.rstrip() + b"\n" + new if old else new)
        fresh.replace(private)
        fresh_public.unlink()
