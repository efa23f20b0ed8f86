"""Tamper evidence: hash chain, checkpoints, verification, exports, and decisions about parked sessions.

Import the modules: `flotilla.audit.verify_export` runs with neither a database nor a Kafka client.
"""
