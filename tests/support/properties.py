"""How properties run: a busy machine must not fail them."""

from hypothesis import HealthCheck, settings

patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""Decorate a property with it: no deadline per example."""
