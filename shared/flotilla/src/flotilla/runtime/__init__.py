"""Process life: start, readiness, health, shutdown."""

from flotilla.runtime.health import Check, Health, health_routes, http_server
from flotilla.runtime.service import Runtime, serve
from flotilla.runtime.supervision import Job, TaskEnded

__all__ = ["Check", "Health", "Job", "Runtime", "TaskEnded", "health_routes", "http_server", "serve"]
