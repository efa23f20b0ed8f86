from tests.integration.workflow_worker.conftest import question, worker
from tests.support.audit_fixtures import audit_pool, kafka, projected

__all__ = ["audit_pool", "kafka", "projected", "question", "worker"]
