"""Typed settings from the environment: every problem reported at once, each with its mend."""

from flotilla.config.settings import (
    KafkaSettings,
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
    "LlmSettings",
    "PostgresSettings",
    "RedisSettings",
    "ServiceSettings",
    "TemporalSettings",
    "Words",
    "load_settings",
]
