from tests.support.audit_fixtures import audit_pool, kafka, projected
from tests.support.ground import ground

__all__ = ["audit_pool", "ground", "kafka", "projected"]
