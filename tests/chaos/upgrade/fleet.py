"""Services of two versions over the same servers."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import asyncpg

from flotilla_devstack import ServiceProcess, Stack
from flotilla_devstack.services import SERVICES as SPECS
from flotilla_devstack.services import service_environment

SERVICES = tuple(SPECS)
_FORMER_ROLES = {"outbox-relay": "flotilla_relay", "audit-consumer": "flotilla_audit"}
"""Before there were tickets, the others were one role, `flotilla_app`."""
_TICKETS = ("FLOTILLA_TICKET_KEY_FILE", "FLOTILLA_TICKET_PUBLIC_KEY_FILE")
# As UPGRADING.md has it, "To a database role per service".
_RETIRE = """
REVOKE ALL ON ALL TABLES IN SCHEMA flotilla, flotilla_ops, audit FROM flotilla_app;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA flotilla, audit FROM flotilla_app;
REVOKE UPDATE (confirmed_by, confirmed_at) ON audit.requests FROM flotilla_app;
REVOKE USAGE ON SCHEMA flotilla, flotilla_ops, audit FROM flotilla_app;
ALTER ROLE flotilla_app NOLOGIN PASSWORD NULL;
"""


class MixedFleet:
    """Starts services of the former version, and puts today's in their place one by one."""

    def __init__(self, stack: Stack, former: Path, env: Mapping[str, str]) -> None:
        self._stack = stack
        self._former = former / ".venv" / "bin" / "python"
        self._former_has_roles = (former / "shared/flotilla/src/flotilla/bus/tickets.py").exists()
        """Tickets, a role per service and users of Redis came together."""
        self._env = dict(env)
        self._running: dict[str, ServiceProcess] = {}
        self._state = stack.state_dir

    @property
    def url(self) -> str:
        """Of the gateway that is in service."""
        return self._running["gateway"].url

    def key(self, name: str) -> str:
        """The API key of a local person."""
        return cast("str", json.loads(self._state.keys_file.read_text())[name])

    async def install_former(self) -> None:
        """Prepare the empty servers as the former version does."""
        await self._install(str(self._former), self._key_files(has_roles=self._former_has_roles))

    async def install_today(self) -> None:
        """Migrate, and give the Redis users their rights, as today's install Job does."""
        await self._install(sys.executable, self._key_files(has_roles=True))

    def _key_files(self, *, has_roles: bool) -> dict[str, Path]:
        files = {"--keys-file": self._state.keys_file, "--signing-key-file": self._state.signing_key_file}
        if has_roles:
            files["--ticket-key-file"] = self._state.ticket_key_file
            files["--redis-passwords-file"] = self._state.redis_passwords_file
        return files

    async def _install(self, python: str, files: Mapping[str, Path]) -> None:
        command = [python, "-m", "flotilla.install", *(str(word) for pair in files.items() for word in pair)]
        env = {**os.environ, **self._stack.environment()}
        run = partial(subprocess.run, capture_output=True, text=True, timeout=300, check=False)
        done = await asyncio.to_thread(run, command, env=env, cwd=self._state.logs)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    async def start_former(self) -> None:
        """Start the services of the former version, and wait until they are ready."""
        self._running = {name: self._process(name, is_former=True) for name in SERVICES}
        for process in self._running.values():
            process.start()
        for process in self._running.values():
            await asyncio.to_thread(process.wait_ready)

    async def replace(self, name: str) -> None:
        """Bring today's service up beside the former one, and stop that once the new one is ready."""
        old, new = self._running[name], self._process(name, is_former=False)
        new.start()
        await asyncio.to_thread(new.wait_ready)
        self._running[name] = new
        await asyncio.to_thread(old.stop)

    def stop(self) -> None:
        """Stop what runs."""
        for process in self._running.values():
            process.stop()

    async def retire_former_role(self) -> None:
        """Take away what the former version's role may do, where it had one for most services."""
        if self._former_has_roles:
            return
        connection = await asyncpg.connect(self._stack.postgres_dsn("flotilla", "postgres"))
        try:
            await connection.execute(_RETIRE)
        finally:
            await connection.close()

    def _process(self, name: str, *, is_former: bool) -> ServiceProcess:
        version = "former" if is_former else "today"
        ports = self._stack.assign_ports(f"{name}-{version}", tuple(SPECS[name].port_variables))
        env = {**self._stack.environment_of(name, ports), **self._env}
        if is_former and not self._former_has_roles:
            role = _FORMER_ROLES.get(name, "flotilla_app")
            env |= {"FLOTILLA_POSTGRES_DSN": self._stack.postgres_dsn("flotilla", role)}
            env |= {"FLOTILLA_REDIS_URL": self._stack.redis_url}  # one password for all
            env = {variable: value for variable, value in env.items() if variable not in _TICKETS}
        python = str(self._former) if is_former else sys.executable
        return ServiceProcess(
            name,
            env=env | service_environment(name, ports),
            ports=ports,
            log=self._state.log_file(f"{name}-{version}"),
            ledger=self._stack.ledger,
            argv=(python, "-m", f"{SPECS[name].module}.main"),
            cwd=self._state.logs,
        )
