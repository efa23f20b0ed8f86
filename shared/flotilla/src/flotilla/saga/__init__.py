"""Sagas: steps with compensations, for any workflow. Pure asyncio, so that Temporal can replay them."""

from flotilla.saga.saga import NotParked, Saga, UnknownStep

__all__ = ["NotParked", "Saga", "UnknownStep"]
