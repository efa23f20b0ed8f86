"""Moves committed outbox rows to Kafka, in order."""
