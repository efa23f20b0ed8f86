"""How properties run: a busy machine must not fail them."""

import os

from hypothesis import HealthCheck, settings

FULL = bool(os.environ.get("FULL"))
"""Set by `make test-chaos`: as many examples and rounds as find what is rare. Without it, one short round of each."""


def examples(full: int) -> int:
    """How many examples there are of a property that has `full` of them with FULL=1."""
    return full if FULL else max(full // 5, 5)


_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
patient = settings(_PATIENT, max_examples=examples(150))
"""Decorate a property with it: no deadline per example."""


def load_profile() -> None:
    """Give the others, too, no deadline, and their number of examples to those that name none."""
    settings.register_profile("flotilla", _PATIENT, max_examples=examples(200))
    settings.load_profile("flotilla")
