"""Apache Kafka in KRaft mode: broker and controller in one process, one node, no automatic topics."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from flotilla_devstack.errors import MissingPrerequisiteError
from flotilla_devstack.folders import write_atomically
from flotilla_devstack.kafka_users import user_properties
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.process import ProcessCommand
from flotilla_devstack.servers import kafka_libs
from flotilla_devstack.servers.base import Home, LocalServer, Report
from flotilla_devstack.servers.kafka_classes import JavaClassArchive
from flotilla_devstack.tools import clean_environment, run_program

CLUSTER_ID = "ZmxvdGlsbGEtZGV2c3RhYw"  # fixed: saves the JVM start that would draw one
MINIMUM_JAVA = 17
INSTALL_JAVA = "apt-get install -y openjdk-17-jre-headless"
_FORMAT_PORTS = {"broker": 9092, "controller": 9093}  # nobody listens on them; the node moves to its own at the start
_PROBE_TIMEOUT_S = 0.5
_ENDED_BY_SIGTERM = 128 + signal.SIGTERM  # what a JVM returns after its shutdown hooks


def find_java() -> str:
    """`$JAVA_HOME/bin/java`, else java on PATH.

    Raises:
        MissingPrerequisiteError: there is none, or it is older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    candidate = Path(home) / "bin" / "java" if home else None
    java = str(candidate) if candidate and candidate.exists() else shutil.which("java")
    if java is None:
        raise MissingPrerequisiteError("java", "there is none", INSTALL_JAVA)
    version = java_version(java)
    if version < MINIMUM_JAVA:
        raise MissingPrerequisiteError("java", f"{java} is version {version}, older than {MINIMUM_JAVA}", INSTALL_JAVA)
    return java


def java_version(java: str) -> int:
    """The feature release, such as 17; 0 when the program does not tell."""
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr  # noqa: S603
    found = re.search(r'version "(\d+)', answer)
    return int(found.group(1)) if found else 0


class KafkaServer(LocalServer):
    """One node. Topics are created by those who need them, with the partitions they need.

    With passwords, who connects has to log in and may do what was granted to it; without, anyone may do anything.
    """

    heap: ClassVar[str] = "512m"
    port_names: ClassVar[tuple[str, ...]] = ("broker", "controller")
    stop_timeout_s = 60.0
    clean_exit_codes: ClassVar[frozenset[int]] = frozenset({0, _ENDED_BY_SIGTERM})
    start_timeout_s = 180.0  # after a kill with gigabytes of log, recovery takes its time

    def __init__(self, home: Home, *, name: str = "kafka", passwords: Mapping[str, str] | None = None) -> None:
        super().__init__(name, home)
        self._users = user_properties(passwords) if passwords else {}
        self._java = ""
        self._libs = Path()
        self._classes: JavaClassArchive | None = None

    @property
    def bootstrap_address(self) -> str:
        """For clients."""
        return f"{LOOPBACK}:{self.ports['broker']}"

    def prepare(self, report: Report, cancelled: threading.Event | None = None) -> None:
        """Find Java, fetch and check the jars, format the storage once, and write the settings again."""
        self._java = find_java()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._libs = kafka_libs.ensure_kafka_jars(self.log, report, cancelled)
        self._classes = JavaClassArchive(self._libs.parent, self._java, self.folder / "classes.jsa")
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(report, cancelled)
        self._write_settings(self.folder, self.ports)

    def find_version(self) -> str:
        """The version of the jars."""
        return f"Apache Kafka {kafka_libs.KAFKA_VERSION}"

    def command(self) -> ProcessCommand:
        """The kernel asks it to end (SIGTERM) when its owner dies: a clean stop spares a recovery of minutes."""
        archive = self._classes.jvm_options() if self._classes else ()
        jvm = self._jvm(f"-Xmx{self.heap}", "-Xms256m", *archive)
        argv = (*jvm, "kafka.Kafka", str(self.folder / "server.properties"))
        return ProcessCommand(argv, clean_environment(), self.folder, death_signal=signal.SIGTERM)

    def stop(self, timeout_s: float | None = None) -> int | None:
        """A clean stop: logs are closed in order, so that the next start has nothing to recover."""
        code = super().stop(timeout_s)
        if self._classes and code == _ENDED_BY_SIGTERM:
            self._classes.publish_to_cache()
        return code

    def probe(self) -> bool:
        """The broker answers ApiVersions, which it does once its listener is open to clients."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["broker"]), _PROBE_TIMEOUT_S) as connection:
                connection.sendall(_api_versions_request())
                return len(connection.recv(8)) == 8  # noqa: PLR2004 - size and correlation id
        except OSError:
            return False

    def _format(self, report: Report, cancelled: threading.Event | None) -> None:
        """Copy the storage that Kafka's own tool formatted once for this user: saves a JVM start per stack."""
        template = self._libs.parent / "formatted"
        if not template.exists():
            report("formatting storage")
            self._make_template(template, cancelled)
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(template, partial)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        partial.rename(self.folder / "data")

    def _make_template(self, template: Path, cancelled: threading.Event | None) -> None:
        work = self.folder / "format"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        settings = self._write_settings(work, _FORMAT_PORTS)
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, "-c", str(settings))
        run_program((*self._jvm("-Xmx128m"), *tool), log=self.log, cwd=work, cancelled=cancelled)
        partial = template.with_name(f"formatted.{os.getpid()}.{threading.get_ident()}")
        shutil.copytree(work / "data", partial)
        shutil.rmtree(work)
        try:
            partial.rename(template)
        except OSError:  # another stack was first; its template is as good
            shutil.rmtree(partial)

    def _jvm(self, *options: str) -> tuple[str, ...]:
        logging = f"-Dlog4j2.configurationFile={kafka_libs.package_data_file('log4j2.properties')}"
        return (self._java, *options, "-Djava.awt.headless=true", logging, "-cp", f"{self._libs}/*")

    def _write_settings(self, folder: Path, ports: dict[str, int]) -> Path:
        properties = self.server_properties(folder / "data", ports) | self._users
        path = folder / "server.properties"
        write_atomically(path, "".join(f"{key}={value}\n" for key, value in properties.items()), mode=0o600)
        return path

    def server_properties(self, data: Path, ports: dict[str, int]) -> dict[str, str]:
        """What the node is started with: `server.properties`."""
        listeners = f"BROKER://{LOOPBACK}:{ports['broker']},CONTROLLER://{LOOPBACK}:{ports['controller']}"
        one_node = {
            f"{topic}.{key}": "1"
            for topic in ("transaction.state.log", "share.coordinator.state.topic")
            for key in ("replication.factor", "min.isr")
        }
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{ports['controller']}",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(data),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.num.partitions": "4",
            **one_node,
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker may register again only once its old session is over: 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "750",
            "auto.create.topics.enable": "false",
        }


def _api_versions_request() -> bytes:
    """ApiVersions version 0 with correlation id 1 (Kafka protocol guide)."""
    client = b"devstack"
    body = struct.pack("!hhih", 18, 0, 1, len(client)) + client
    return struct.pack("!i", len(body)) + body
