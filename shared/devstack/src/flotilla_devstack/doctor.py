"""What the local stack needs of this machine, as data."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.folders import default_state_dir
from flotilla_devstack.servers.kafka import find_java, java_version
from flotilla_devstack.servers.kafka_libs import INSTALL_MAVEN, jar_cache_folder
from flotilla_devstack.servers.postgres import find_postgres_bin
from flotilla_devstack.servers.redis import find_redis, redis_version
from flotilla_devstack.servers.temporal import find_temporal
from flotilla_devstack.tools import find_program

_NEEDED_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class DoctorFinding:
    """One finding. `hint` says what to do when it is not `ok`, and is empty when it is."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def check_prerequisites(state: Path | None = None) -> list[DoctorFinding]:
    """Check every prerequisite of `flotilla up`; never raises for what it finds, and changes nothing."""
    folder = (state or default_state_dir()).expanduser()
    return [
        _platform(),
        _check("java", _java),
        _check("maven", _maven),
        _check("redis", _redis),
        _check("postgres", lambda: str(find_postgres_bin())),
        _check("temporal", lambda: str(find_temporal())),
        _disk(folder),
    ]


def _check(name: str, find: Callable[[], str]) -> DoctorFinding:
    try:
        return DoctorFinding(name, ok=True, detail=find())
    except MissingPrerequisiteError as missing:
        return DoctorFinding(name, ok=False, detail=str(missing), hint=missing.hint)


def _platform() -> DoctorFinding:
    ok = sys.platform == "linux"
    hint = "" if ok else "run the stack on Linux: it follows processes by /proc and pidfd"
    return DoctorFinding("platform", ok=ok, detail=sys.platform, hint=hint)


def _java() -> str:
    java = find_java()
    return f"version {java_version(java)}, {java}"


def _maven() -> str:
    libs = jar_cache_folder() / "libs"
    if libs.exists():
        return f"not needed: Kafka's jars are in {libs}"
    return find_program("mvn", what="maven", hint=INSTALL_MAVEN)


def _redis() -> str:
    program = find_redis("redis")
    return f"{redis_version(program)}, {program}"


def _disk(folder: Path) -> DoctorFinding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 1024**3:.1f} GiB free for {folder}"
    hint = "" if free >= _NEEDED_DISK_BYTES else "free some space, or name another folder with FLOTILLA_HOME"
    return DoctorFinding("disk", ok=not hint, detail=detail, hint=hint)
