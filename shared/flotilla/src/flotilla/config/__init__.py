"""Typed settings from the environment: every problem reported at once, each with its fix."""

from flotilla.config.settings import (
    KafkaSettings,
    KnowledgeSettings,
    LlmDialectWord,
    LlmSettings,
    OpenWorkLimitSettings,
    OperatorSettings,
    Paths,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    TemporalSettings,
    TokenBudgetSettings,
    Words,
    load_settings,
)

__all__ = [
    "KafkaSettings",
    "KnowledgeSettings",
    "LlmDialectWord",
    "LlmSettings",
    "OpenWorkLimitSettings",
    "OperatorSettings",
    "Paths",
    "PostgresSettings",
    "RedisSettings",
    "ServiceSettings",
    "TemporalSettings",
    "TokenBudgetSettings",
    "Words",
    "load_settings",
]
