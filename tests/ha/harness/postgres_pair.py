"""PostgreSQL as a primary with a synchronous standby, which can be promoted."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.servers.base import Home
from flotilla_devstack.servers.postgres import SUPERUSER, PostgresServer
from flotilla_devstack.tools import run_program
from flotilla_devstack.waiting import wait_until

# Processes are killed here, not machines: what the kernel was given outlives them.
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "wal_keep_size": "256MB",
    "max_wal_size": "512MB",
}
_BACKUP_S = 120.0
_STREAMING = "SELECT 1 FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"


class PostgresNode(PostgresServer):
    """One of the pair."""

    def __init__(self, home: Home, *, name: str, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(home, name=name, settings={**SETTINGS, **(settings or {})})

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self._real / "data"

    def lead(self) -> None:
        """Let no commit return before a standby has it, and wait until one follows."""
        self._settings["synchronous_standby_names"] = "*"
        self._reload()
        wait_until(lambda: bool(self.query_as_superuser(_STREAMING)), timeout_s=60, what=f"a standby of {self.name}")

    def promote(self) -> None:
        """Become a primary without a standby; returns when it accepts writes."""
        self.query_as_superuser("SELECT pg_promote(true, 30)")

    def follow(self, primary: "PostgresNode") -> None:
        """Throw away what it has, copy the primary and follow it; returns when it answers."""
        if self.is_running():
            self.kill()
        self._copy(primary)
        self._settings.pop("synchronous_standby_names", None)
        self._settings["primary_conninfo"] = f"host={LOOPBACK} port={primary.ports['postgres']} user={SUPERUSER}"
        self._write_settings()
        self._write("standby.signal", "")
        self.start()
        self.wait_ready()

    def _copy(self, primary: "PostgresNode") -> None:
        shutil.rmtree(self.data)
        source = f"host={LOOPBACK} port={primary.ports['postgres']} user={SUPERUSER}"
        argv = (str(self._bin / "pg_basebackup"), "-D", str(self.data), "-d", source, "-X", "stream", "-c", "fast")
        run_program(argv, log=self.log, cwd=self._real, user=self._user, timeout_s=_BACKUP_S)

    def _reload(self) -> None:
        self._write_settings()
        self.query_as_superuser("SELECT pg_reload_conf()")


class PostgresPair:
    """Who is primary changes by `promote`."""

    def __init__(self, primary: PostgresNode, standby: PostgresNode) -> None:
        self.primary = primary
        self.standby = standby

    def promote(self) -> PostgresNode:
        """Promote the standby, whatever the primary does, and return it."""
        self.primary, self.standby = self.standby, self.primary
        self.primary.promote()
        return self.primary

    def rejoin(self) -> None:
        """Make the standby a copy of the primary again, and its commits wait for it."""
        self.standby.follow(self.primary)
        self.primary.lead()
