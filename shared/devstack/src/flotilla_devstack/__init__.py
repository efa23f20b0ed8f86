"""Flotilla's real servers as local processes on loopback, and a supervisor for its services.

For tests: `Stack`, `Stack.attach`, `stack_for_tests`, `ServiceProcess`. For the command line: `up`, `down`, `status`,
`log_path`, `doctor`.
"""

from flotilla_devstack.control import UpOptions, down, log_path, status, up
from flotilla_devstack.doctor import Check, doctor
from flotilla_devstack.errors import DevstackError
from flotilla_devstack.folders import default_state_dir
from flotilla_devstack.progress import Progress
from flotilla_devstack.running import RunningStack
from flotilla_devstack.services import SERVICES, ServiceProcess
from flotilla_devstack.stack import SERVERS, AttachedStack, Stack, port_names, stack_for_tests
from flotilla_devstack.status import Status
from flotilla_devstack.waiting import wait_until

__all__ = [
    "SERVERS",
    "SERVICES",
    "AttachedStack",
    "Check",
    "DevstackError",
    "Progress",
    "RunningStack",
    "ServiceProcess",
    "Stack",
    "Status",
    "UpOptions",
    "default_state_dir",
    "doctor",
    "down",
    "log_path",
    "port_names",
    "stack_for_tests",
    "status",
    "up",
    "wait_until",
]
