"""The worker's settings."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from flotilla.config import (
    EncryptionSettings,
    LlmSettings,
    OpenWorkLimitSettings,
    OperatorSettings,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    TemporalSettings,
    Words,
)
from flotilla.config.hosts import check_allowed_hosts
from flotilla.contracts.names import TASK_QUEUE


class Settings(
    ServiceSettings,
    PostgresSettings,
    EncryptionSettings,
    RedisSettings,
    TemporalSettings,
    LlmSettings,
    OperatorSettings,
    OpenWorkLimitSettings,
):
    """Settings of `workflow-worker`."""

    postgres_pool_max: int = Field(default=20, ge=2)
    task_queue: str = TASK_QUEUE
    temporal_metrics_port: int = Field(default=9091, ge=0, le=65535)
    """Where the Temporal SDK's own metrics are; 0 serves none."""
    http_host: str = "0.0.0.0"  # noqa: S104 - in a pod, agents come from outside
    """Where agents ask for the keys of their tasks' sessions, if the worker has root keys; `::` is every address of
    IPv6 and IPv4."""
    http_port: int = Field(default=8081, ge=0, le=65535)
    """The port for it; 0 picks a free one."""
    max_concurrent_activities: int = Field(default=100, ge=1)
    max_concurrent_workflow_tasks: int = Field(default=50, ge=2)
    max_cached_workflows: int = Field(default=1000, ge=1)
    agents: Words = ("research", "write")
    """Agents that workflows may ask before they have registered for the first time."""
    bridge_slots: int = Field(default=64, ge=1)
    """Replies that are handled at the same time."""
    ticket_key_file: Path
    """The Ed25519 private key (PEM, PKCS 8) that signs tasks; agents have its public half."""
    build_id: str | None = None
    """Turns on worker versioning: one Deployment per build id."""
    deployment_name: str = "workflow-worker"
    approval_policy: str = "builtin:production"
    """A policy file, `builtin:production` or `builtin:local`. The gateway must have the same."""
    vote_roots: Path | None = None
    """A file (TOML) of the keys whose approval of a voter's key counts; without it no signed vote does."""
    approval_risk_review: bool = False
    """Lets the language model look at each action's risk; it can only raise it."""
    approval_webhook_urls: Words = ()
    """Who is notified of approvals that wait, besides the inbox."""
    approval_webhook_secret: SecretStr | None = None
    """Signs webhooks; `whsec_` and base64, as Standard Webhooks writes it, or any text."""
    action_http_hosts: Words = ()
    """Hosts (`api.example.com`, `10.0.0.5:8443`) that the action `http_request` may call, over https; none by default.
    `http://10.0.0.5:8080` allows that one over plain http, where others can read and change what is sent."""

    notify_hosts: Words = ()
    """Hosts that may get notices of runs, as in `FLOTILLA_ACTION_HTTP_HOSTS`. The gateway must have the same."""
    notify_secrets: Path | None = None
    """A folder with the secrets that sign notices of runs: files called `TENANT.SECRET_REF`."""

    @field_validator("action_http_hosts", "notify_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return check_allowed_hosts(f"FLOTILLA_{(info.field_name or '').upper()}", hosts)

    @model_validator(mode="after")
    def _check_webhook_secret(self) -> Self:
        if self.approval_webhook_urls and self.approval_webhook_secret is None:
            raise ValueError("FLOTILLA_APPROVAL_WEBHOOK_URLS needs FLOTILLA_APPROVAL_WEBHOOK_SECRET to sign with")
        return self
