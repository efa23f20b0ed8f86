"""Erasure of people and legal holds."""
