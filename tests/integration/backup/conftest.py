from tests.integration.backup.saved import another, saved
from tests.support.audit_fixtures import kafka, projected

__all__ = ["another", "kafka", "projected", "saved"]
