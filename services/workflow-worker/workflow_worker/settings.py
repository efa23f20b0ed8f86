"""The worker's settings."""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from flotilla.config import (
    LlmSettings,
    OperatorSettings,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    TemporalSettings,
    Words,
)
from flotilla.contracts.names import TASK_QUEUE

_LISTED_HOST = re.compile(r"(https?://)?([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)


class Settings(ServiceSettings, PostgresSettings, RedisSettings, TemporalSettings, LlmSettings, OperatorSettings):
    """Settings of `workflow-worker`."""

    postgres_pool_max: int = Field(default=20, ge=2)
    task_queue: str = TASK_QUEUE
    temporal_metrics_port: int = Field(default=9091, ge=0, le=65535)
    """Where the Temporal SDK's own metrics are; 0 serves none."""
    max_concurrent_activities: int = Field(default=100, ge=1)
    max_concurrent_workflow_tasks: int = Field(default=50, ge=2)
    max_cached_workflows: int = Field(default=1000, ge=1)
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

    @field_validator("action_http_hosts")
    @classmethod
    def _hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _LISTED_HOST.fullmatch(host):
                raise ValueError(f"FLOTILLA_ACTION_HTTP_HOSTS: {host} is not a host such as api.example.com:8443")
        return hosts

    @model_validator(mode="after")
    def _webhooks_are_signed(self) -> Self:
        if self.approval_webhook_urls and self.approval_webhook_secret is None:
            raise ValueError("FLOTILLA_APPROVAL_WEBHOOK_URLS needs FLOTILLA_APPROVAL_WEBHOOK_SECRET to sign with")
        return self
