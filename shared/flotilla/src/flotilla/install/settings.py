"""The installer's settings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from flotilla.config import KafkaSettings, PostgresSettings, RedisSettings, Words
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import agent_role
from flotilla.postgres.connecting import libpq_dsn

Passwords = dict[str, SecretStr]


class Settings(PostgresSettings, RedisSettings, KafkaSettings):
    """Settings of `python -m flotilla.install`.

    The DSN must belong to a role that may create roles, or the fleet's roles must exist already.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    install_timeout_s: float = Field(default=120.0, gt=0)
    """How long to wait for a dependency that does not answer."""
    install_agents: Words = ("research", "write", "mcp")
    """Agents that get their role of PostgreSQL and their consumer group now, so that work sent before their first start
    is handled."""
    kafka_replication_factor: int | None = Field(default=None, ge=1)
    """Of new topics; by default 3, or the number of brokers where there are fewer."""
    kafka_grant_rights: bool = False
    """Give each service's Kafka user its rights (`docs/generated/kafka-acls.md`); for an administrator's login."""
    admin_key: SecretStr | None = None
    """An API key that shall act as admin of the default tenant: how the first key comes into a new installation."""
    role_passwords_dir: Path | None = None
    """A folder with a file per role (`flotilla_gateway`, `flotilla_agent_research`, …) that holds its password, as a
    mounted Secret is: sets these passwords. Every agent of `FLOTILLA_INSTALL_AGENTS` needs one."""
    gateway_password: SecretStr | None = None
    """Sets the password of role `flotilla_gateway`; left alone when unset."""
    worker_password: SecretStr | None = None
    """Sets the password of role `flotilla_worker`."""
    agent_password: SecretStr | None = None
    """Sets the password of role `flotilla_agent`, which agents of former versions share."""
    app_password: SecretStr | None = None
    """Sets the password of role `flotilla_app`, which services of former versions use."""
    relay_password: SecretStr | None = None
    """Sets the password of role `flotilla_relay`."""
    audit_password: SecretStr | None = None
    """Sets the password of role `flotilla_audit`."""
    scaler_password: SecretStr | None = None
    """Sets the password of role `flotilla_scaler`."""
    backup_password: SecretStr | None = None
    """Sets the password of role `flotilla_backup`."""

    def libpq_dsn(self) -> str:
        """The DSN as psycopg takes it."""
        return libpq_dsn(self.postgres_dsn.get_secret_value(), self.postgres_ca_file)

    def role_passwords(self) -> Passwords:
        """Return the passwords that are set, by role.

        Raises:
            ConfigurationError: `role_passwords_dir` can't be read, or has no password for an agent.
        """
        given = {
            "flotilla_gateway": self.gateway_password,
            "flotilla_worker": self.worker_password,
            "flotilla_agent": self.agent_password,
            "flotilla_app": self.app_password,
            "flotilla_relay": self.relay_password,
            "flotilla_audit": self.audit_password,
            "flotilla_scaler": self.scaler_password,
            "flotilla_backup": self.backup_password,
        }
        agents = [agent_role(agent) for agent in self.install_agents]
        return {
            **(_read_passwords(self.role_passwords_dir, given, agents) if self.role_passwords_dir else {}),
            **{role: password for role, password in given.items() if password is not None},
        }


def _read_passwords(folder: Path, services: Iterable[str], agents: Iterable[str]) -> Passwords:
    """Of the roles that there is a file for; agents need one. A Secret may hold more than the fleet's roles."""
    try:
        found = {role: (folder / role).read_text("utf-8").strip() for role in services if (folder / role).exists()}
        found |= {role: (folder / role).read_text("utf-8").strip() for role in agents}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"FLOTILLA_ROLE_PASSWORDS_DIR has no password for every agent: {error}; "
            "add a file (on Kubernetes: a key of the Secret of role passwords) with the role's name"
        ) from error
    return {role: SecretStr(password) for role, password in found.items() if password}
