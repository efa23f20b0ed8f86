"""What installed packages add: objects that their entry points name."""

from collections.abc import Collection
from importlib.metadata import entry_points
from typing import Any

from flotilla.contracts.errors import ConfigurationError


def load_entry_point_objects(group: str, *, taken: Collection[str] = ()) -> dict[str, Any]:
    """The objects of all entry points in `group`, by name.

    Raises:
        ConfigurationError: one can't be imported, or its name is taken: nobody replaces an action unnoticed.
    """
    loaded: dict[str, Any] = {}
    for entry in entry_points(group=group):
        if entry.name in taken or entry.name in loaded:
            raise ConfigurationError(f"entry point {entry.name} in {group}: {entry.value} has a name that is taken")
        try:
            loaded[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"entry point {entry.name} in {group}: {entry.value}: {error}") from error
    return loaded
