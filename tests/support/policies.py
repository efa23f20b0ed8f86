"""Approval policies of the tests."""

from pathlib import Path

UNSIGNED = str(Path(__file__).with_name("unsigned.toml"))
"""A policy in which no vote has to be signed."""
