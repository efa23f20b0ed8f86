"""The readiness check of those who work with Temporal."""

from datetime import timedelta

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from flotilla.contracts.errors import RetryLater

_LIMIT = timedelta(seconds=3)
_MAY_NOT_ASK = {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}


async def check_temporal(client: Client, address: str) -> None:
    """Raises RetryLater until Temporal answers and has the client's namespace."""
    try:
        await client.service_client.check_health(timeout=_LIMIT)
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace), timeout=_LIMIT
        )
    except RPCError as error:
        if error.status in _MAY_NOT_ASK:
            return
        if error.status == RPCStatusCode.NOT_FOUND:
            name = client.namespace
            raise RetryLater(
                f"Temporal at {address} has no namespace {name}: set FLOTILLA_TEMPORAL_NAMESPACE, or create it with "
                f"`temporal operator namespace create --namespace {name}`"
            ) from error
        raise RetryLater(f"Temporal at {address} does not answer: {error} (check FLOTILLA_TEMPORAL_ADDRESS)") from error
    except RuntimeError as error:
        raise RetryLater(f"Temporal at {address} does not answer: {error} (check FLOTILLA_TEMPORAL_ADDRESS)") from error
