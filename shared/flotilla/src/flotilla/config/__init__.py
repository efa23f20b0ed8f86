"""Typed settings from the environment: every problem reported at once, each with its mend."""

from flotilla.config.settings import (
    KafkaSettings,
    LlmDialectWord,
    LlmSettings,
    PostgresSettings,
    RedisSettings,
    ServiceSettings,
    TemporalSettings,
    Words,
    load_settings,
)

__all__ = [
    "KafkaSettings",
    "LlmDialectWord",
    "LlmSettings",
    "PostgresSettings",
    "RedisSettings",
    "ServiceSettings",
    "TemporalSettings",
    "Words",
    "load_settings",
]
