"""A namespace of the cluster that KUBECONFIG names, by kubectl and helm, as an operator would."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
Object: TypeAlias = dict[str, Any]
Forward: TypeAlias = Callable[[str, int], AbstractContextManager[str]]
# What a namespace holds without anybody's doing.
_OWN = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
_KINDS = (
    "all,configmap,secret,serviceaccount,persistentvolumeclaim,poddisruptionbudget,networkpolicy,"
    "ingress,role,rolebinding,lease"
)


@dataclass(frozen=True)
class Namespace:
    """Runs commands in one namespace; what fails tells what the pods said."""

    name: str

    def run(self, *command: str, check: bool = True, timeout_s: float = 300, stdin: str | None = None) -> str:
        """The standard output of a command; `check` fails with its words and the namespace's state."""
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False, input=stdin
        )
        if check and done.returncode:
            said = f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
            raise AssertionError(f"{said}\n{self.diagnosis()}")
        return done.stdout + ("" if check else done.stderr)

    def kubectl(self, *arguments: str, check: bool = True, timeout_s: float = 300, stdin: str | None = None) -> str:
        return self.run("kubectl", "--namespace", self.name, *arguments, check=check, timeout_s=timeout_s, stdin=stdin)

    def helm(self, *arguments: str, check: bool = True, timeout_s: float = 600) -> str:
        return self.run("helm", "--namespace", self.name, *arguments, check=check, timeout_s=timeout_s)

    def get(self, kind: str, *arguments: str) -> list[Object]:
        """Objects of a kind."""
        found = json.loads(self.kubectl("get", kind, *arguments, "--output", "json"))
        return list(found["items"])

    def secret(self, name: str, key: str) -> str:
        template = f'{{{{index .data "{key}" | base64decode}}}}'
        return self.kubectl("get", "secret", name, "--output", f"go-template={template}")

    def pods(self, service: str = "") -> list[Object]:
        """Pods that are not ended, of one service or of all."""
        selector = ("--selector", f"app.kubernetes.io/name={service}") if service else ()
        return [pod for pod in self.get("pods", *selector) if pod["status"]["phase"] in ("Pending", "Running")]

    def killed(self, pod: str) -> None:
        """Ends a pod at once, without the time it asks for."""
        self.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--ignore-not-found")

    async def all_ready(self, timeout_s: float) -> None:
        """Waits until every Deployment has what it asks for and every Job is done."""
        try:
            await eventually(lambda: not self.unready(), timeout_s, every_s=2)
        except AssertionError:
            raise AssertionError(
                f"not ready after {timeout_s:g} s: {', '.join(self.unready())}\n{self.diagnosis()}"
            ) from None

    def unready(self) -> list[str]:
        """What is not there yet, by name."""
        return [
            each["metadata"]["name"]
            for each in self.get("deployments,jobs")
            if not (_rolled_out(each) if each["kind"] == "Deployment" else each["status"].get("succeeded"))
        ]

    def everything(self) -> set[str]:
        """The names of all objects but the namespace's own."""
        found = self.kubectl("get", _KINDS, "--output", "name", "--ignore-not-found").split()
        return set(found) - _OWN

    def diagnosis(self) -> str:
        """Pods, warnings, and the last words of the containers that are not ready."""
        parts = ["== pods", self._told("get", "pods", "--output", "wide")]
        parts += ["== warnings", self._told("get", "events", "--field-selector", "type=Warning")]
        for pod in json.loads(self._told("get", "pods", "--output", "json") or '{"items": []}')["items"]:
            name = pod["metadata"]["name"]
            states = pod["status"].get("containerStatuses", [])
            if pod["status"]["phase"] != "Succeeded" and not all(state["ready"] for state in states):
                parts += [f"== log of {name}", _without_retries(self._told("logs", name, "--tail", "200"))]
            if any(state["restartCount"] for state in states):
                parts += [
                    f"== log of {name} before its restart",
                    self._told("logs", name, "--previous", "--tail", "15"),
                ]
        return "\n".join(parts)

    def _told(self, *arguments: str) -> str:
        done = subprocess.run(
            ["kubectl", "--namespace", self.name, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout or done.stderr


def _without_retries(log: str) -> str:
    """The last words of a pod, without the Kafka client's line per try."""
    return "\n".join([line for line in log.splitlines() if "Unable connect to" not in line][-15:])


def _rolled_out(deployment: Object) -> bool:
    """As `kubectl rollout status` judges."""
    status, wanted = deployment["status"], deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        and status.get("availableReplicas", 0) == wanted
    )


def cluster_problem() -> str | None:
    """Why no cluster can be had, with the fix; None where one answers."""
    if not os.environ.get("KUBECONFIG"):
        return "set KUBECONFIG to a cluster that may be used for tests"
    try:
        done = subprocess.run(
            ["kubectl", "get", "nodes", "--request-timeout=20s"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "kubectl is not on PATH"
    return f"the cluster of KUBECONFIG does not answer: {done.stderr}" if done.returncode else None
