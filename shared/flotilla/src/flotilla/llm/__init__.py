"""Language models: providers behind one protocol, answers stored before use, computed confidence."""

from flotilla.llm.accounts import BudgetSpent
from flotilla.llm.budget import TokenBudgetSpent, TokenLimits
from flotilla.llm.calls import StoredCallKey
from flotilla.llm.confidence import UNSUPPORTED_LIMIT, Confidence, compute_confidence
from flotilla.llm.create import create_model, open_models
from flotilla.llm.extractive import EXTRACTIVE_MODEL, NOTHING_FOUND, ExtractiveModel, best_sentence
from flotilla.llm.model import (
    ChatMessage,
    Completion,
    CompletionRequest,
    Grounding,
    LanguageModel,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
    OnToken,
    ToolRequest,
    ToolSpec,
)
from flotilla.llm.money import MoneyBudget, MoneyBudgetSpent, MoneyLimits, create_money_budget
from flotilla.llm.request_hash import hash_completion_request
from flotilla.llm.stored_calls import StoredModelCalls

__all__ = [
    "EXTRACTIVE_MODEL",
    "NOTHING_FOUND",
    "UNSUPPORTED_LIMIT",
    "BudgetSpent",
    "ChatMessage",
    "Completion",
    "CompletionRequest",
    "Confidence",
    "ExtractiveModel",
    "Grounding",
    "LanguageModel",
    "ModelRefused",
    "ModelTimedOut",
    "ModelUnavailable",
    "MoneyBudget",
    "MoneyBudgetSpent",
    "MoneyLimits",
    "OnToken",
    "StoredCallKey",
    "StoredModelCalls",
    "TokenBudgetSpent",
    "TokenLimits",
    "ToolRequest",
    "ToolSpec",
    "best_sentence",
    "compute_confidence",
    "create_model",
    "create_money_budget",
    "hash_completion_request",
    "open_models",
]
