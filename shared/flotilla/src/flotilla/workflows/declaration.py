"""`@flotilla_workflow`: makes a class with one method a Temporal workflow whose runs Flotilla keeps."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

from temporalio import workflow

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.requests import WorkflowRequest
from flotilla.contracts.typed import Codec, is_object_type
from flotilla.workflows.execution import run_workflow_to_completion
from flotilla.workflows.run import Run

C = TypeVar("C", bound=type)
_WORKFLOW_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DECLARATION_ATTRIBUTE = "__flotilla_workflow__"
_RUN_PARAMETER_COUNT = 3


@dataclass(frozen=True)
class DeclaredWorkflow:
    """A workflow as its author declared it."""

    name: str
    version: str
    workflow: type
    code: Callable[..., Any]
    """The author's own `run`."""

    @cached_property
    def input(self) -> Codec[Any]:
        """What `run` takes."""
        return Codec(self._input_and_output_types[0], f"the input of workflow {self.name}")

    @cached_property
    def output(self) -> Codec[Any]:
        """What `run` returns."""
        return Codec(self._input_and_output_types[1], f"the output of workflow {self.name}")

    @cached_property
    def _input_and_output_types(self) -> tuple[Any, Any]:
        try:
            hints = get_type_hints(self.code)
        except NameError as error:
            raise ConfigurationError(f"workflow {self.name}: {error}: import the types of run at the top") from error
        parameter = list(inspect.signature(self.code).parameters)[2]
        taken, returned = hints.get(parameter), hints.get("return")
        if not is_object_type(taken) or not (is_object_type(returned) or returned is type(None)):
            raise ConfigurationError(
                f"workflow {self.name}: run needs types for {parameter} and what it returns: dataclasses, models or "
                "mappings"
            )
        return taken, returned

    def schemas(self) -> tuple[JsonObject, JsonObject]:
        """Return the JSON schemas of input and output.

        Raises:
            ConfigurationError: `run` lacks a type, or one can't travel as JSON.
        """
        taken = self.input.schema()
        if "properties" in taken:
            taken.setdefault("additionalProperties", False)  # a typo is not a field that nobody reads
        return taken, {"type": "null"} if self._input_and_output_types[1] is type(None) else self.output.schema()


def flotilla_workflow(*, name: str, version: str) -> Callable[[C], C]:
    """Declare a workflow: a class with `async def run(self, run: Run, request: …) -> …`.

    `name` is what callers start it by: lower-case letters, digits and hyphens. `version` is of the author's own making.
    The class is a plain Temporal workflow, with signals, queries and updates as Temporal has them.

    Raises:
        ConfigurationError: `name`, `version` or `run` is not as it has to be.
    """

    def declare(cls: C) -> C:
        code = vars(cls).get("run")
        _check_declaration(name, version, cls, code)
        assert code is not None  # noqa: S101 - checked
        declared = DeclaredWorkflow(name, version, cls, code)

        # Temporal would take a `self` with a type for an argument.
        async def run(self, request: WorkflowRequest) -> JsonObject | None:  # type: ignore[no-untyped-def]
            async def work(under_way: Run, data: JsonObject) -> JsonObject | None:
                returned = await code(self, under_way, declared.input.decode(data))
                return None if returned is None else declared.output.encode(returned)

            return await run_workflow_to_completion(name, request, work)

        run.__module__, run.__qualname__, run.__doc__ = cls.__module__, f"{cls.__qualname__}.run", code.__doc__
        cls.run = workflow.run(run)  # type: ignore[attr-defined]
        setattr(cls, _DECLARATION_ATTRIBUTE, declared)
        return workflow.defn(name=name)(cls)

    return declare


def find_workflow_declaration(found: object) -> DeclaredWorkflow | None:
    """Return how `found` was declared; None when it was not."""
    declared = vars(found).get(_DECLARATION_ATTRIBUTE) if isinstance(found, type) else None
    return declared if isinstance(declared, DeclaredWorkflow) else None


def _check_declaration(name: str, version: str, cls: type, code: object) -> None:
    where = f"workflow {name!r} ({cls.__module__}.{cls.__qualname__})"
    if not _WORKFLOW_NAME.fullmatch(name):
        raise ConfigurationError(f"{where}: a name is lower-case letters, digits and hyphens, 63 at most")
    if not version.strip() or len(version) > _MAX_VERSION_CHARS:
        raise ConfigurationError(f"{where}: give a version of 1 to {_MAX_VERSION_CHARS} characters")
    if not inspect.iscoroutinefunction(code) or len(inspect.signature(code).parameters) != _RUN_PARAMETER_COUNT:
        raise ConfigurationError(f"{where} needs `async def run(self, run: Run, request: …) -> …`")


_MAX_VERSION_CHARS = 100
