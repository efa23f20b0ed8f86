"""Flotilla's real servers as local processes on loopback, and a supervisor for its services.

For tests: `Stack`, `Stack.attach`, `stack_for_tests`, `ServiceProcess`. For the CLI: `up`, `down`, `status`, `log_path`,
`doctor`.
"""

from flotilla_devstack.errors import DevstackError
from flotilla_devstack.running import RunningStack
from flotilla_devstack.services import SERVICES, ServiceProcess
from flotilla_devstack.stack import SERVERS, AttachedStack, Stack, stack_for_tests
from flotilla_devstack.waiting import wait_until

__all__ = [
    "SERVERS",
    "SERVICES",
    "AttachedStack",
    "DevstackError",
    "RunningStack",
    "ServiceProcess",
    "Stack",
    "stack_for_tests",
    "wait_until",
]
