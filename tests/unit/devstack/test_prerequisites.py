"""What is said when something is missing on this machine."""

from pathlib import Path

import pytest

from flotilla_devstack import check_prerequisites
from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.servers import redis
from flotilla_devstack.servers.kafka import find_java
from flotilla_devstack.servers.postgres import BIN_VARIABLE, find_postgres_bin


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no program on PATH and an empty cache."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FLOTILLA_DEVSTACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv(BIN_VARIABLE, raising=False)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_missing_java_and_maven_are_reported_with_their_fixes(bare: Path) -> None:
    checks = {check.name: check for check in check_prerequisites(bare)}
    assert not checks["java"].ok
    assert checks["java"].hint == "apt-get install -y openjdk-17-jre-headless"
    assert not checks["maven"].ok
    assert checks["maven"].hint == "apt-get install -y maven"
    assert checks["disk"].ok == (not checks["disk"].hint)


def test_old_java_is_refused_with_its_version(bare: Path) -> None:
    program(bare, "java", """echo 'openjdk version "11.0.20" 2023-07-18' >&2""")
    with pytest.raises(MissingPrerequisiteError, match=r"version 11.*apt-get install"):
        find_java()


def test_java_home_comes_before_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "jdk" / "bin").mkdir(parents=True)
    program(bare / "jdk" / "bin", "java", """echo 'openjdk version "21.0.1"' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(bare / "jdk"))
    assert find_java() == str(bare / "jdk" / "bin" / "java")


@pytest.mark.usefixtures("bare")
def test_without_a_system_redis_one_from_a_wheel_serves() -> None:
    assert redis.find_redis("redis").name in ("redis-server", "valkey-server")


@pytest.mark.usefixtures("bare")
def test_without_any_redis_the_hint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "find_distribution_file", lambda *_: None)
    with pytest.raises(MissingPrerequisiteError, match="apt-get install -y redis-server"):
        redis.find_redis("redis")


def test_folder_without_postgres_is_refused_by_name(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BIN_VARIABLE, str(bare))
    with pytest.raises(MissingPrerequisiteError, match=BIN_VARIABLE):
        find_postgres_bin()
