"""A gateway with a worker and agents behind it, for the clients."""

from tests.integration.gateway.conftest import gate, gateway, log_topics, replica, worker

__all__ = ["gate", "gateway", "log_topics", "replica", "worker"]
