"""Process life: start, readiness, health, shutdown."""

from flotilla.runtime.health import Check, Health, health_routes, http_server
from flotilla.runtime.service import Runtime, serve

__all__ = ["Check", "Health", "Runtime", "health_routes", "http_server", "serve"]
