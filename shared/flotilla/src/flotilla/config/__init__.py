"""Typed settings from the environment: every problem reported at once, each with its fix."""

from flotilla.config.settings import (
    EncryptionSettings,
    KafkaSettings,
    KnowledgeSettings,
    LlmDialectWord,
    LlmSettings,
    OpenWorkLimitSettings,
    OperatorSettings,
    Paths,
    PostgresSettings,
    RedisSettings,
    RootKeySettings,
    ServiceSettings,
    TemporalSettings,
    TokenBudgetSettings,
    Words,
    load_settings,
)

__all__ = [
    "EncryptionSettings",
    "KafkaSettings",
    "KnowledgeSettings",
    "LlmDialectWord",
    "LlmSettings",
    "OpenWorkLimitSettings",
    "OperatorSettings",
    "Paths",
    "PostgresSettings",
    "RedisSettings",
    "RootKeySettings",
    "ServiceSettings",
    "TemporalSettings",
    "TokenBudgetSettings",
    "Words",
    "load_settings",
]
