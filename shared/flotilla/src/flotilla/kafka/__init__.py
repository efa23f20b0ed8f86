"""Kafka: the client's arguments, topics, lanes, and the reader of the permanent session log.

Import the modules: only `lanes` and `records` work without aiokafka.
"""
