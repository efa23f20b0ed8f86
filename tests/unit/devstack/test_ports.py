"""The book of loopback ports."""

import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from flotilla_devstack.errors import PortTakenError
from flotilla_devstack.ports import LOOPBACK, PortAssignments, free_port, is_port_free


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_ports_are_the_same_at_the_next_start(tmp_path: Path) -> None:
    book = tmp_path / "ports.json"
    first = PortAssignments(book, {}).assign_ports("temporal", ("grpc", "ui"))
    assert PortAssignments(book, {}).assign_ports("temporal", ("grpc", "ui")) == first
    assert first["grpc"] != first["ui"]


def test_port_that_was_taken_since_is_replaced(tmp_path: Path, taken: int) -> None:
    book = tmp_path / "ports.json"
    book.write_text(f'{{"redis.redis": {taken}}}')
    assert PortAssignments(book, {}).assign_ports("redis", ("redis",))["redis"] != taken


def test_requested_port_is_used_and_kept(tmp_path: Path) -> None:
    wanted = free_port()
    book = tmp_path / "ports.json"
    assert PortAssignments(book, {"redis.redis": wanted}).assign_ports("redis", ("redis",)) == {"redis": wanted}
    assert PortAssignments(book, {}).assign_ports("redis", ("redis",)) == {"redis": wanted}


def test_requested_port_in_use_is_refused_by_name(tmp_path: Path, taken: int) -> None:
    with pytest.raises(PortTakenError, match=rf"{taken}.*kafka\.broker"):
        PortAssignments(tmp_path / "ports.json", {"kafka.broker": taken}).assign_ports("kafka", ("broker",))


def test_preferred_port_gives_way_when_it_is_taken(tmp_path: Path, taken: int) -> None:
    ports = PortAssignments(tmp_path / "ports.json", {}, {"gateway.http": taken}).assign_ports("gateway", ("http",))
    assert ports["http"] != taken


def test_preferred_port_is_taken_when_free(tmp_path: Path) -> None:
    preferred = free_port()
    ports = PortAssignments(tmp_path / "ports.json", {}, {"gateway.http": preferred}).assign_ports(
        "gateway", ("http", "metrics")
    )
    assert ports["http"] == preferred != ports["metrics"]


def test_listening_port_is_not_free(taken: int) -> None:
    assert not is_port_free(taken)


def test_two_books_that_draw_the_same_numbers_get_different_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("broker", "controller")
    books = [PortAssignments(tmp_path / name, {}, {"kafka.broker": 28_080}) for name in ("a.json", "b.json")]
    drawn: list[int] = []
    for book in books:
        monkeypatch.setattr("flotilla_devstack.ports.random", Random(7))  # noqa: S311 - no secret
        drawn += book.assign_ports("kafka", names).values()
    assert len(set(drawn)) == 4


def test_claimed_port_is_free_again_once_its_book_is_closed(tmp_path: Path) -> None:
    book = PortAssignments(tmp_path / "ports.json", {})
    port = book.assign_ports("redis", ("redis",))["redis"]
    with pytest.raises(PortTakenError, match=str(port)):
        PortAssignments(tmp_path / "other.json", {"redis.redis": port}).assign_ports("redis", ("redis",))
    assert not is_port_free(port)
    book.release_ports()
    assert is_port_free(port)
