"""Flotilla's real servers as local processes on loopback, and a supervisor for its services.

For tests: `Stack`, `Stack.attach`, `stack_for_tests`, `ServiceProcess`. For the command line: `up`, `down`,
`stack_status`, `log_path`, `check_prerequisites`.
"""

from flotilla_devstack.control import UpOptions, down, log_path, stack_status, up
from flotilla_devstack.doctor import DoctorFinding, check_prerequisites
from flotilla_devstack.errors import DevstackError
from flotilla_devstack.folders import default_state_dir
from flotilla_devstack.progress import ProgressEvent
from flotilla_devstack.running import RunningStack
from flotilla_devstack.services import SERVICES, ServiceProcess
from flotilla_devstack.stack import SERVERS, AttachedStack, Stack, requestable_port_names, stack_for_tests
from flotilla_devstack.status import StackStatus
from flotilla_devstack.waiting import wait_until

__all__ = [
    "SERVERS",
    "SERVICES",
    "AttachedStack",
    "DevstackError",
    "DoctorFinding",
    "ProgressEvent",
    "RunningStack",
    "ServiceProcess",
    "Stack",
    "StackStatus",
    "UpOptions",
    "check_prerequisites",
    "default_state_dir",
    "down",
    "log_path",
    "requestable_port_names",
    "stack_for_tests",
    "stack_status",
    "up",
    "wait_until",
]
