"""Pipelines by routing slip: submitted in one transaction, their end read from Temporal once and kept."""
