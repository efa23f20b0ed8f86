"""Which entries of Redis' ACL log count."""

from flotilla.bus.denials import denial_counts_by_entry


def entry(reason: str, denied: str, count: int = 1, user: str = "mallory-agent") -> list[object]:
    return [
        b"count", count, b"reason", reason.encode(), b"context", b"toplevel", b"object", denied.encode(),
        b"username", user.encode(), b"age-seconds", b"0.1", b"client-info", b"id=1 name=x",
    ]  # fmt: skip


def test_clients_that_name_their_library_and_failed_logins_do_not_count() -> None:
    rows = [
        entry("command", "client|setinfo"),
        entry("auth", "AUTH", user="a name of the caller's choice"),
        entry("key", "flotilla.tasks.research", 2),
        entry("key", "flotilla.tasks.research", 3),
    ]
    found = denial_counts_by_entry(rows)
    assert [(denied.user, denied.reason, denied.name) for denied, _ in found] == [
        ("mallory-agent", "key", "flotilla.tasks.research")
    ]
    assert found.total() == 5


def test_a_long_name_of_a_key_is_cut() -> None:
    [(denied, _)] = denial_counts_by_entry([entry("key", "k" * 10_000)])
    assert denied.name == "k" * 200
