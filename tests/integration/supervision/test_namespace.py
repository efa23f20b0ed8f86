"""Without its namespace in Temporal neither the gateway nor the worker is ready, and both name the command."""

from collections.abc import Callable

import pytest
from temporalio.runtime import Runtime as SdkRuntime

from flotilla.config import TemporalSettings
from flotilla.contracts.errors import RetryLater
from gateway.temporal import TemporalGateway
from workflow_worker.temporal import TemporalConnection


async def test_a_missing_namespace_is_named(temporal_address: str, unique: Callable[[str], str]) -> None:
    name = unique("missing")
    settings = TemporalSettings(temporal_address=temporal_address, temporal_namespace=name)
    for check in (
        TemporalGateway(settings, "queue").check_ready,
        TemporalConnection(settings, SdkRuntime.default()).check_temporal_ready,
    ):
        with pytest.raises(RetryLater, match=f"temporal operator namespace create --namespace {name}"):
            await check()


async def test_the_namespace_that_is_there_is_ready(temporal_address: str) -> None:
    settings = TemporalSettings(temporal_address=temporal_address)
    await TemporalGateway(settings, "queue").check_ready()
    await TemporalConnection(settings, SdkRuntime.default()).check_temporal_ready()
