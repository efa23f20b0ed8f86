"""Language models: providers behind one protocol, answers stored before use, computed confidence."""

from flotilla.llm.accounts import BudgetSpent
from flotilla.llm.budget import TokenBudgetSpent, TokenLimits
from flotilla.llm.calls import CallKey
from flotilla.llm.confidence import UNSUPPORTED_LIMIT, Confidence, confidence_of
from flotilla.llm.create import create_model
from flotilla.llm.extractive import EXTRACTIVE_MODEL, NOTHING_FOUND, ExtractiveModel, best_quote
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
from flotilla.llm.money import Money, MoneyBudgetSpent, MoneyLimits, money_of
from flotilla.llm.request_hash import request_hash
from flotilla.llm.stored_calls import StoredCalls

__all__ = [
    "EXTRACTIVE_MODEL",
    "NOTHING_FOUND",
    "UNSUPPORTED_LIMIT",
    "BudgetSpent",
    "CallKey",
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
    "Money",
    "MoneyBudgetSpent",
    "MoneyLimits",
    "OnToken",
    "StoredCalls",
    "TokenBudgetSpent",
    "TokenLimits",
    "ToolRequest",
    "ToolSpec",
    "best_quote",
    "confidence_of",
    "create_model",
    "money_of",
    "request_hash",
]
