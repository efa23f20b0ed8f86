"""Encryption switched on for a fleet at work, an erasure, and a backup by the CronJob.

The tests build on each other, in this order.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flotilla.config.signing import create_key_pair
from flotilla.encryption import create_key_file
from tests.chaos.encryption.test_encrypted_stores import encodings
from tests.cluster.approvals import key_of
from tests.cluster.conftest import READY_WITHIN_S, own_namespace
from tests.cluster.fleet import RELEASE, REPOSITORY, TAG, Fleet, Reached, installed
from tests.cluster.kubernetes import Namespace, Object
from tests.e2e.fleet import finished, session_events, start_run
from tests.support.waiting import eventually

pytestmark = pytest.mark.full
ROOT_KEYS = ("--set", "global.encryption.existingSecret=root-keys")
READ_ONLY = ("--set", "global.encryption.keysOnly=true")
OPTIONS = (
    *ROOT_KEYS,
    *("--set", "backup.enabled=true", "--set", "backup.suspend=true"),
    *("--set", "backup.claim=backups"),
    *("--set", "backup.keysSecret=backup-keys"),
    *("--set", "backup.passphraseSecret=backup-passphrase"),
)
STORES = ("postgres", "kafka", "redis", "temporal")
_TABLES = """
SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""
_PASSPHRASE = secrets.token_hex(16)
_VERIFY = ("python", "-m", "flotilla.backup", "verify")
_PUBLIC = ("--public-key", "/etc/backup/backup.pem", "--audit-public-key", "/etc/audit/public-keys.pem")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root key and the pair that signs backups."""
    folder = tmp_path_factory.mktemp("keys")
    create_key_file(folder / "root.keys")
    create_key_pair(folder / "backup-signing.pem", folder / "backup.pem")
    return folder


@pytest.fixture(scope="module")
def namespace(cluster: None, keys: Path) -> Iterator[Namespace]:
    """One that has the fleet's Secrets, and a volume for backups."""
    with own_namespace("privacy") as made:
        _put_secrets(made, keys)
        yield made


@pytest.fixture(scope="module")
def fleet(namespace: Namespace) -> Fleet:
    """A fleet that can read what is encrypted, and encrypts nothing yet."""
    made = Fleet(namespace, OPTIONS)
    asyncio.run(installed(made, READY_WITHIN_S, *READ_ONLY))
    return made


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    """What the person says: in clear, and encrypted."""
    return {name: secrets.token_hex(12) for name in ("clear", "encrypted")}


@pytest.fixture(scope="module")
def people(fleet: Fleet) -> dict[str, str]:
    """Keys: ada is the person, bob and carol are admins."""

    async def keys() -> dict[str, str]:
        with fleet.reached() as reached:
            async with reached.client() as admin:
                roles = {"ada": ("operator",), "bob": ("admin",), "carol": ("admin",)}
                return {name: await key_of(admin, name, *role) for name, role in roles.items()}

    return asyncio.run(keys())


async def test_nothing_is_clear_any_more_once_the_second_upgrade_encrypts(
    fleet: Fleet, words: dict[str, str], people: dict[str, str]
) -> None:
    await _ask(fleet, people["ada"], "clear", words["clear"])
    await eventually(lambda: _all_hold(fleet, words["clear"]), timeout_s=120, every_s=2)

    fleet.upgrade()
    await fleet.namespace.all_ready(READY_WITHIN_S)
    run = await _ask(fleet, people["ada"], "encrypted", words["encrypted"])

    assert words["encrypted"] in run["query"]
    await eventually(lambda: _all_hold(fleet, run["run_id"]), timeout_s=120, every_s=2)
    assert await _holders(fleet, words["encrypted"]) == set()


async def test_an_erasure_leaves_nothing_to_read_and_the_log_verifies(
    fleet: Fleet, words: dict[str, str], people: dict[str, str]
) -> None:
    with fleet.reached() as reached:
        carol, bob = (Reached(reached.url, people[name]) for name in ("carol", "bob"))
        asked = json.loads(carol.cli("privacy", "erase", "--subject", "ada", "--reason", "request 1", "-o", "json"))
        bob.cli("privacy", "confirm", asked["erasure_id"])

        async with reached.client(people["ada"]) as client:

            async def erased() -> str | None:
                text = json.dumps(await session_events(client, "encrypted"))
                return text if "[erased]" in text and words["encrypted"] not in text else None

            await eventually(erased, timeout_s=120, every_s=1)
        reached.cli("audit", "verify")
    assert await _holders(fleet, words["encrypted"]) == set()


async def test_the_backup_of_the_cron_job_is_good(fleet: Fleet, keys: Path) -> None:
    namespace = fleet.namespace
    _put_keys_of_backup(namespace, keys)
    namespace.kubectl("create", "job", "now", f"--from=cronjob/{RELEASE}-backup")
    await namespace.all_ready(300)
    folder = str(json.loads(namespace.kubectl("logs", "job/now").splitlines()[-1])["folder"])
    with _holder(namespace):
        assert _is_good(namespace, folder)


async def _ask(fleet: Fleet, key: str, session: str, word: str) -> dict[str, Any]:
    with fleet.reached() as reached:
        async with reached.client(key) as client:
            run = await finished(client, await start_run(client, session, f"Where is {word}?", session), timeout_s=180)
    assert run["status"] == "success", run
    return run


async def _holders(fleet: Fleet, word: str) -> set[str]:
    """The tables with the word in a row, and the servers with the word in a file."""
    wanted = [each.decode() for each in encodings(word) if b"\0" not in each]
    script = "grep --recursive --files-with-matches --text --fixed-strings --no-messages --file - /data || true"
    found = {
        store
        for store in STORES
        if fleet.namespace.kubectl(
            *("exec", "--stdin", f"deployment/flotilla-demo-{store}", "--", "sh", "-c", script), stdin="\n".join(wanted)
        )
    }
    pattern = "|".join(map(re.escape, wanted))
    async with fleet.database() as database:
        for row in await database.fetch(_TABLES):
            if await database.fetchval(f"SELECT EXISTS (SELECT FROM {row['name']} AS t WHERE t::text ~ $1)", pattern):
                found.add(row["name"])
    return found


async def _all_hold(fleet: Fleet, word: str) -> bool:
    """Whether what is said in clear is found in each store, in the log's projection, too."""
    return {*STORES, "audit.session_events", "flotilla.runs"} <= await _holders(fleet, word)


def _put(namespace: Namespace, kind: str, name: str, **content: object) -> None:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}
    namespace.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))


def _put_secrets(namespace: Namespace, keys: Path) -> None:
    _put(namespace, "Secret", "root-keys", stringData={"root.keys": (keys / "root.keys").read_text()})
    _put(namespace, "Secret", "backup-passphrase", stringData={"passphrase": _PASSPHRASE})
    _put(namespace, "ConfigMap", "backup-public", data={"backup.pem": (keys / "backup.pem").read_text()})
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    _put(namespace, "PersistentVolumeClaim", "backups", spec=claim)


def _put_keys_of_backup(namespace: Namespace, keys: Path) -> None:
    """What signs backups, and the demo's keys, which a restored fleet needs."""
    needed = {
        "backup-signing.pem": (keys / "backup-signing.pem").read_text(),
        "signing-key.pem": namespace.secret("flotilla-demo-signing", "signing-key.pem"),
        "ticket-key.pem": namespace.secret("flotilla-demo-tickets", "ticket-key.pem"),
    }
    _put(namespace, "Secret", "backup-keys", stringData=needed)


@contextmanager
def _holder(namespace: Namespace) -> Iterator[None]:
    """A pod with the volume of backups, and what a verification needs."""
    volumes: dict[str, Object] = {
        "/backups": {"persistentVolumeClaim": {"claimName": "backups"}},
        "/etc/backup": {"configMap": {"name": "backup-public"}},
        "/etc/audit": {"configMap": {"name": "flotilla-demo-signing"}},
    }
    container = {
        "name": "holder",
        "image": f"{REPOSITORY}/gateway:{TAG}",
        "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": path.rpartition("/")[2], "mountPath": path} for path in volumes],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    context = {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    mounted = [{"name": path.rpartition("/")[2], **volume} for path, volume in volumes.items()]
    spec = {
        "securityContext": context,
        "containers": [container],
        "volumes": mounted,
        "terminationGracePeriodSeconds": 0,
    }
    _put(namespace, "Pod", "holder", spec=spec)
    namespace.kubectl("wait", "--for=condition=Ready", "pod/holder", "--timeout=180s")
    yield
    namespace.kubectl("delete", "pod", "holder")


def _in_holder(namespace: Namespace, *command: str, check: bool = True) -> str:
    return namespace.kubectl("exec", "holder", "--", *command, check=check)


def _is_good(namespace: Namespace, folder: str) -> bool:
    said = _in_holder(namespace, *_VERIFY, folder, *_PUBLIC, check=False)
    (verdict,) = [json.loads(line) for line in said.splitlines() if line.startswith('{"ok"')]
    return bool(verdict["ok"])
