"""Which provider of root keys the settings ask for."""

from importlib.metadata import entry_points

from flotilla.config import RootKeySettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.encryption.roots import AfterKeyFile, KeyFile, RootKeys
from flotilla.encryption.vault import VaultTransit

GROUP = "flotilla.root_keys"
"""Entry points of functions without arguments that return `RootKeys`."""


def open_root_keys(settings: RootKeySettings) -> RootKeys | None:
    """The root keys of the settings; None without any.

    Raises:
        ConfigurationError: they can't be used.
    """
    file = None if settings.encryption_key_file is None else KeyFile(settings.encryption_key_file)
    provider = _provider(settings)
    if provider is None or file is None:
        return provider or file
    return AfterKeyFile(file, provider)


def _provider(settings: RootKeySettings) -> RootKeys | None:
    if settings.encryption_vault_url is not None:
        assert settings.encryption_vault_token_file is not None  # noqa: S101 - the settings check it
        return VaultTransit(
            settings.encryption_vault_url,
            settings.encryption_vault_key,
            mount=settings.encryption_vault_mount,
            token_file=settings.encryption_vault_token_file,
            ca_file=settings.encryption_vault_ca_file,
            namespace=settings.encryption_vault_namespace,
        )
    return None if settings.encryption_provider is None else _installed(settings.encryption_provider)


def _installed(name: str) -> RootKeys:
    """The provider of an installed package."""
    for entry in entry_points(group=GROUP, name=name):
        try:
            provider: RootKeys = entry.load()()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"entry point {name} in {GROUP}: {entry.value}: {error}") from error
        return provider
    installed = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP))) or "none"
    raise ConfigurationError(f"FLOTILLA_ENCRYPTION_PROVIDER={name}: no package has it; installed: {installed}")
