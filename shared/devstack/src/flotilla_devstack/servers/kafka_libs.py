"""Kafka's jars: resolved once per user with Maven's ordinary client, and checked against the shipped manifest."""

import hashlib
import shutil
import tempfile
import threading
from importlib import resources
from pathlib import Path

from flotilla_devstack.errors import CorruptDownloadError, StateLockedError
from flotilla_devstack.folders import StateLock, cache_dir, file_sha256
from flotilla_devstack.servers.base import Report
from flotilla_devstack.tools import find_program, run_program
from flotilla_devstack.waiting import wait_until

KAFKA_VERSION = "4.4.0"
INSTALL_MAVEN = "apt-get install -y maven"
_DOWNLOAD_TIMEOUT_S = 600.0


def package_data_file(name: str) -> Path:
    """A file of package data: pom.xml, jars.sha256, log4j2.properties."""
    return Path(str(resources.files("flotilla_devstack.servers.kafka_dist").joinpath(name)))


def jar_checksums() -> dict[str, str]:
    """Jar name → SHA-256; the names hold the versions."""
    lines = package_data_file("jars.sha256").read_text(encoding="ascii").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def jar_cache_folder() -> Path:
    """The cache folder of exactly this set of jars."""
    digest = hashlib.sha256(package_data_file("jars.sha256").read_bytes()).hexdigest()[:12]
    return cache_dir() / f"kafka-{KAFKA_VERSION}-{digest}"


def verify_jars(libs: Path) -> None:
    """Compare every jar in a folder with the manifest.

    Raises:
        CorruptDownloadError: a jar is missing, surplus or different.
    """
    expected = jar_checksums()
    found = {jar.name: file_sha256(jar) for jar in libs.glob("*.jar")}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise CorruptDownloadError(
            f"{libs} differs from the pinned jars of Kafka {KAFKA_VERSION} in {', '.join(wrong)}; "
            f"delete {libs.parent} and repeat"
        )


def ensure_kafka_jars(log: Path, report: Report, cancelled: threading.Event | None = None) -> Path:
    """The folder of the verified jars, downloaded if this user has none yet.

    One of several who ask at once downloads; the others wait. The folder takes its name only when it is verified, so an
    interrupted download can be repeated.

    Raises:
        MissingPrerequisiteError: Maven is needed and not there.
        ToolFailedError: Maven failed.
        CorruptDownloadError: what came is not what was pinned.
    """
    libs = jar_cache_folder() / "libs"
    libs.parent.mkdir(parents=True, exist_ok=True)
    lock = StateLock(libs.parent / "lock")
    wait_until(lambda: _try(lock), timeout_s=_DOWNLOAD_TIMEOUT_S, what="the download by another", cancelled=cancelled)
    try:
        if not libs.exists():
            report(f"downloading Kafka {KAFKA_VERSION}")
            _download(libs, log, cancelled)
        verify_jars(libs)
    finally:
        lock.release()
    return libs


def _try(lock: StateLock) -> bool:
    try:
        lock.acquire()
    except StateLockedError:
        return False
    return True


def _download(libs: Path, log: Path, cancelled: threading.Event | None) -> None:
    maven = find_program("mvn", what="maven", hint=INSTALL_MAVEN)
    with tempfile.TemporaryDirectory(dir=libs.parent) as scratch:
        work = Path(scratch)
        shutil.copy(package_data_file("pom.xml"), work / "pom.xml")
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs")
        run_program(
            (maven, "-q", "-B", "-Dstyle.color=never", *goal),
            log=log,
            cwd=work,
            timeout_s=_DOWNLOAD_TIMEOUT_S,
            cancelled=cancelled,
        )
        verify_jars(work / "libs")
        (work / "libs").rename(libs)
