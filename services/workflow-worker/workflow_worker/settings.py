"""What the worker can be told."""

from pydantic import Field

from flotilla.config import PostgresSettings, RedisSettings, ServiceSettings, TemporalSettings
from flotilla.contracts.names import TASK_QUEUE


class Settings(ServiceSettings, PostgresSettings, RedisSettings, TemporalSettings):
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
    build_id: str | None = None
    """Turns on worker versioning: one Deployment per build id."""
    deployment_name: str = "workflow-worker"
