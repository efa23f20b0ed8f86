"""What is compared: each peer is one process on a database and a topic of its own."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flotilla.config import KafkaSettings
from flotilla_devstack.errors import DevstackError
from flotilla_devstack.folders import cache_dir
from flotilla_devstack.ports import free_port
from flotilla_devstack.servers.kafka import find_java
from flotilla_devstack.servers.kafka_libs import package_data_file
from tests.support.postgres import Database

_POM = Path(__file__).parent / "connect-pom.xml"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Place:
    """Where a peer reads and writes."""

    database: Database
    kafka: KafkaSettings
    folder: Path


@dataclass
class Peer:
    """One contestant; paused while the others run."""

    name: str
    place: Place
    command: Sequence[str]
    events: int
    """How many it is given to drain."""
    warm_up: int = 0
    env: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Starts it, output to a log in its folder."""
        with (self.place.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, env={**os.environ, **self.env}, stdout=log, stderr=log)

    def resume(self) -> None:
        """Its turn."""
        self._running().send_signal(signal.SIGCONT)

    def pause(self) -> None:
        """Somebody else's turn."""
        self._running().send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        """Ends it."""
        self.resume()
        self._running().terminate()
        try:
            self._running().wait(10)
        except subprocess.TimeoutExpired:
            self._running().kill()
            self._running().wait()

    def cpu_s(self) -> float:
        """CPU time used so far, user and system (proc(5), fields 14 and 15)."""
        fields = Path(f"/proc/{self._running().pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self._running().pid}/statm").read_text().split()[1]) * 4096 / 1e6

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, f"{self.name} was not started"
        return self.process


def flotilla_relay(place: Place, events: int, warm_up: int = 5000) -> Peer:
    """The relay, as the service is run. What it warms up with warms the broker, too, for everybody."""
    env = {
        "FLOTILLA_POSTGRES_DSN": place.database.dsn("flotilla_relay"),
        "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": place.kafka.kafka_bootstrap_servers,
        "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": place.kafka.kafka_session_events_topic,
        "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": place.kafka.kafka_checkpoints_topic,
        "FLOTILLA_METRICS_HOST": "127.0.0.1",
        "FLOTILLA_METRICS_PORT": "0",
    }
    return Peer("flotilla", place, [sys.executable, "-m", "outbox_relay.main"], events, warm_up, env=env)


def naive_relay(place: Place, events: int) -> Peer:
    """Row by row."""
    arguments = [
        place.database.superuser_dsn,
        place.kafka.kafka_bootstrap_servers,
        place.kafka.kafka_session_events_topic,
    ]
    return Peer("naive", place, [sys.executable, "-m", "benchmarks.outbox.naive", *arguments], events, warm_up=10)


def debezium(place: Place, events: int, warm_up: int) -> Peer:
    """Debezium's outbox event router in a standalone Connect worker, tuned for latency.

    Raises:
        DevstackError: no Java, no Maven, or the jars can't be had.
    """
    libs = _connect_libs()
    worker, connector = place.folder / "worker.properties", place.folder / "connector.properties"
    worker.write_text(_properties(_worker(place)))
    connector.write_text(_properties(_connector(place)))
    logging = f"-Dlog4j2.configurationFile={package_data_file('log4j2.properties')}"
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    command = [find_java(), "-Xmx768m", logging, "-cp", f"{libs}/*", main, str(worker), str(connector)]
    return Peer("debezium", place, command, events, warm_up=warm_up)


def _connect_libs() -> Path:
    folder = cache_dir() / f"connect-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise DevstackError("Maven is not installed")
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        shutil.copy(_POM, partial / "pom.xml")
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
        done = subprocess.run([maven, "-q", "-B", *goal], cwd=partial, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DevstackError(f"Maven can't resolve the jars: {done.stdout[-500:]}")
        partial.rename(folder)
    return folder


def _worker(place: Place) -> dict[str, str]:
    return {
        "bootstrap.servers": place.kafka.kafka_bootstrap_servers,
        "listeners": f"http://127.0.0.1:{free_port()}",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "offset.storage.file.filename": str(place.folder / "offsets"),
        "producer.acks": "all",
    }


def _connector(place: Place) -> dict[str, str]:
    address, _, name = place.database.superuser_dsn.rpartition("/")
    host, _, port = address.rpartition("@")[2].partition(":")
    return {
        "name": "outbox",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.hostname": host,
        "database.port": port,
        "database.user": "postgres",
        "database.password": "unused",
        "database.dbname": name,
        "topic.prefix": "benchmark",
        "slot.name": "benchmark",
        "publication.autocreate.mode": "filtered",
        "table.include.list": "flotilla.event_outbox",
        "snapshot.mode": "no_data",
        "skipped.operations": "u,d,t",
        "tombstones.on.delete": "false",
        "poll.interval.ms": "5",
        "max.batch.size": "8192",
        "max.queue.size": "32768",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.field.event.id": "event_id",
        "transforms.outbox.table.field.event.key": "session_id",
        "transforms.outbox.table.field.event.payload": "body",
        "transforms.outbox.route.by.field": "tenant_id",
        "transforms.outbox.route.topic.replacement": place.kafka.kafka_session_events_topic,
    }


def _properties(settings: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())
