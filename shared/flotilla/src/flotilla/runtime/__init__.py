"""Process life: start, readiness, health, shutdown."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flotilla.runtime.health import Check, Health, health_routes, http_server
    from flotilla.runtime.service import Runtime, serve
    from flotilla.runtime.supervision import Job, TaskEnded
else:
    _PLACES = {
        **dict.fromkeys(("Check", "Health", "health_routes", "http_server"), "flotilla.runtime.health"),
        **dict.fromkeys(("Runtime", "serve"), "flotilla.runtime.service"),
        **dict.fromkeys(("Job", "TaskEnded"), "flotilla.runtime.supervision"),
    }

    def __getattr__(name):
        """Import it when it is asked for: a confined child is one of this package's modules, and serves nothing."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


__all__ = ["Check", "Health", "Job", "Runtime", "TaskEnded", "health_routes", "http_server", "serve"]
