"""A chain of models: where one is busy, broken, late or left alone, the next one answers the whole request."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import structlog

from flotilla.llm.circuit import AdmittedCall, CircuitBreaker
from flotilla.llm.model import (
    Completion,
    CompletionRequest,
    FallbackReason,
    LanguageModel,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    OnToken,
    SkippedModel,
)
from flotilla.llm.pace import Pace
from flotilla.telemetry.metrics import LLM_FALLBACKS

Ask: TypeAlias = Callable[[LanguageModel, CompletionRequest, OnToken | None], Awaitable[Completion]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One model, with what is known of it."""

    model: LanguageModel
    pace: Pace
    circuit: CircuitBreaker = field(default_factory=CircuitBreaker)


class ModelChain:
    """Is a `LanguageModel` by the name of its first one, under which answers are stored."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = tuple(links)
        self.name = links[0].model.name
        self.provider = links[0].model.provider

    @staticmethod
    def of(model: LanguageModel) -> "ModelChain":
        """`model` as a chain, if it is none."""
        return model if isinstance(model, ModelChain) else ModelChain([Link(model, Pace(model.name, None))])

    @property
    def model_names(self) -> tuple[str, ...]:
        """Those that may answer."""
        return tuple(link.model.name for link in self._links)

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Answer; see `LanguageModel.complete`."""
        return await self.ask(request, on_token, lambda model, asked, show: model.complete(asked, show))

    async def ask(self, request: CompletionRequest, on_token: OnToken | None, ask: Ask) -> Completion:
        """Have the first model answer that can, each asked by `ask`. Once text of one was shown, no other follows.

        Raises:
            ModelRefused: one of them will never answer this.
            ModelUnavailable: none can now.
        """
        shown = _Shown(on_token)
        passed: list[SkippedModel] = []
        last: ModelUnavailable | None = None
        for link in self._links:
            passage = link.circuit.admit_call()
            if passage is None:
                passed.append(SkippedModel(model=link.model.name, reason="circuit_open"))
                continue
            try:
                await _turn(link, passage)
                made = await _asked(link, passage, request, shown, ask)
            except ModelUnavailable as error:
                last = error
                if shown.any:
                    raise
                passed.append(_passed(link, error))
            else:
                return replace(made, answered_by=link.model.name, fallbacks=tuple(passed))
        raise last or self._all_open()

    def _all_open(self) -> ModelUnavailable:
        wait_s = min(link.circuit.retry_in_s for link in self._links)
        names = ", ".join(self.model_names)
        return ModelUnavailable(f"{names}: failed too often, and are left alone for now", retry_after_s=wait_s)

    async def close(self) -> None:
        """Close all of them."""
        for link in self._links:
            await link.model.close()


class _Shown:
    """Passes text on, and remembers that there was some."""

    def __init__(self, on_token: OnToken | None) -> None:
        self._on_token = on_token
        self.any = False

    async def __call__(self, text: str) -> None:
        self.any = True
        if self._on_token is not None:
            await self._on_token(text)


async def _turn(link: Link, passage: AdmittedCall) -> None:
    """Wait for the call's turn. That it gets none says nothing about the model, which was not asked."""
    try:
        await link.pace.turn()
    except BaseException as error:
        link.circuit.record_abandoned(passage)
        if isinstance(error, ModelUnavailable):
            error.model = link.model.name
        raise


async def _asked(link: Link, passage: AdmittedCall, request: CompletionRequest, shown: _Shown, ask: Ask) -> Completion:
    try:
        made = await ask(link.model, request, shown)
    except ModelUnavailable as error:
        error.model = link.model.name
        link.circuit.record_failure(passage, error)
        raise
    except ModelRefused as error:
        error.model = link.model.name
        link.circuit.record_success()
        raise
    except BaseException:
        link.circuit.record_abandoned(passage)
        raise
    link.circuit.record_success()
    return made


def _passed(link: Link, error: ModelUnavailable) -> SkippedModel:
    reason: FallbackReason = "timed_out" if isinstance(error, ModelTimedOut) else "unavailable"
    LLM_FALLBACKS.labels(link.model.name, reason).inc()
    log.warning("model_passed_over", model=link.model.name, reason=reason, error=str(error))
    return SkippedModel(model=link.model.name, reason=reason, usage=error.usage)
