"""The manifest of Kafka's jars."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from flotilla_devstack.errors import CorruptDownloadError
from flotilla_devstack.folders import file_sha256
from flotilla_devstack.servers import kafka_libs


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two small jars that are exactly what a manifest says."""
    libs = tmp_path / "libs"
    libs.mkdir()
    for name in ("a-1.jar", "b-2.jar"):
        (libs / name).write_bytes(name.encode())
    digests = {jar.name: file_sha256(jar) for jar in libs.iterdir()}
    monkeypatch.setattr(kafka_libs, "jar_checksums", lambda: digests)
    return libs


def test_exact_jars_pass(pinned: Path) -> None:
    kafka_libs.verify_jars(pinned)


def test_changed_jar_is_refused(pinned: Path) -> None:
    (pinned / "a-1.jar").write_bytes(b"other")
    with pytest.raises(CorruptDownloadError, match=r"a-1\.jar"):
        kafka_libs.verify_jars(pinned)


def test_missing_jar_is_refused(pinned: Path) -> None:
    (pinned / "b-2.jar").unlink()
    with pytest.raises(CorruptDownloadError, match=r"b-2\.jar"):
        kafka_libs.verify_jars(pinned)


def test_surplus_jar_is_refused(pinned: Path) -> None:
    (pinned / "c-3.jar").write_bytes(b"c")
    with pytest.raises(CorruptDownloadError, match=r"c-3\.jar"):
        kafka_libs.verify_jars(pinned)


def test_shipped_manifest_and_pom_name_the_same_kafka() -> None:
    root = ElementTree.parse(kafka_libs.package_data_file("pom.xml")).getroot()  # noqa: S314 - our own file
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    artifacts = [
        f"{node.findtext('m:artifactId', '', space)}-{node.findtext('m:version', '', space)}.jar"
        for node in root.findall("m:dependencies/m:dependency", space)
    ]
    assert f"kafka_2.13-{kafka_libs.KAFKA_VERSION}.jar" in artifacts
    assert set(artifacts) <= kafka_libs.jar_checksums().keys()


def test_manifest_holds_a_digest_for_each_jar() -> None:
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in kafka_libs.jar_checksums().values())
    assert len(kafka_libs.jar_checksums()) > 40
