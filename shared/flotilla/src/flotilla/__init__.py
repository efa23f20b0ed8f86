"""Flotilla: durable, governed, auditable agent services."""

__version__ = "0.1.0"
