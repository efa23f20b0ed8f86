"""The files of migrations, as files."""

from collections import Counter

from flotilla.postgres.schema import MIGRATIONS


def test_no_two_migrations_have_one_number() -> None:
    numbers = Counter(file.name.split("_")[0] for file in MIGRATIONS.glob("*.sql"))

    assert [number for number, files in numbers.items() if files > 1] == []
