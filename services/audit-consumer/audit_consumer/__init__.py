"""Builds the audit projection: hash chain, checkpoints, analytics."""
