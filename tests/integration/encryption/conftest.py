from tests.support.audit_fixtures import audit_pool, kafka, projected
from tests.support.encryption import key_file, keyring, sealing

__all__ = ["audit_pool", "kafka", "key_file", "keyring", "projected", "sealing"]
