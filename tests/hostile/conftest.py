from tests.hostile.shop import shop, working
from tests.integration.gateway.conftest import gateway, log_topics, replica
from tests.integration.workflow_worker.conftest import question, worker
from tests.support.audit_fixtures import audit_pool, kafka, projected

__all__ = [
    "audit_pool",
    "gateway",
    "kafka",
    "log_topics",
    "projected",
    "question",
    "replica",
    "shop",
    "worker",
    "working",
]
