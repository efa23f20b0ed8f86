"""Which schema this code was written for."""

from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"


def newest_migration() -> str:
    """The id of the newest migration that this code knows; a service is ready once it is applied."""
    return max(path.stem for path in MIGRATIONS.glob("*.sql"))
