"""Actions that an installed package adds by its entry points."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from flotilla.actions.arguments import check_action_args, load_action_argument_types
from flotilla.contracts.errors import ConfigurationError, Invalid
from workflow_worker.actions.registry import load_action_handlers

MODULE = """
from dataclasses import dataclass

from decimal import Decimal

@dataclass(frozen=True, kw_only=True)
class RefundArgs:
    order_id: str
    cents: int
    rate: Decimal = Decimal(1)

async def refund(context, args):
    return {"refunded": args.cents}
"""
Install: TypeAlias = Callable[[dict[str, str]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package with these entry points, `group.name` to `module:object`."""

    def lay(entries: dict[str, str]) -> None:
        (tmp_path / "shop_actions.py").write_text(MODULE)
        metadata = tmp_path / "shop_actions-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-actions\nVersion: 1.0\n")
        lines = [f"[flotilla.{group}]\n{name} = {value}\n" for group, _, name, value in parsed(entries)]
        (metadata / "entry_points.txt").write_text("".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    load_action_argument_types.cache_clear()
    yield lay
    monkeypatch.undo()
    load_action_argument_types.cache_clear()


def parsed(entries: dict[str, str]) -> list[tuple[str, str, str, str]]:
    return [(*key.partition("."), value) for key, value in entries.items()]


async def test_an_installed_action_is_known_and_gets_its_typed_arguments(install: Install) -> None:
    install({"actions.refund": "shop_actions:RefundArgs", "action_handlers.refund": "shop_actions:refund"})
    check_action_args("refund", {"order_id": "o-1", "cents": 5})
    with pytest.raises(Invalid, match="refund"):
        check_action_args("refund", {"order_id": "o-1", "cents": "five"})
    with pytest.raises(Invalid, match="takes no argument"):
        check_action_args("refund", {"order_id": "o-1", "cents": 5, "to": "me"})
    context: Any = None  # This handler needs nothing of it.
    assert await load_action_handlers().run_action_handler(context, "refund", {"order_id": "o-1", "cents": 5}) == {
        "refunded": 5
    }


@pytest.mark.parametrize("rate", ["NaN", "sNaN", "-Infinity", float("inf")])
def test_a_typed_argument_that_is_not_finite_is_refused_with_its_place(install: Install, rate: object) -> None:
    install({"actions.refund": "shop_actions:RefundArgs", "action_handlers.refund": "shop_actions:refund"})
    with pytest.raises(Invalid, match=r"^args\.rate: "):
        check_action_args("refund", {"order_id": "o-1", "cents": 5, "rate": rate})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"actions.echo": "shop_actions:RefundArgs"}, "taken"),
        ({"action_handlers.echo": "shop_actions:refund"}, "taken"),
        ({"actions.refund": "shop_actions:RefundArgs"}, "action refund needs two entry points"),
        ({"action_handlers.refund": "shop_actions:refund"}, "action refund needs two entry points"),
        ({"actions.refund": "shop_actions:refund", "action_handlers.refund": "shop_actions:refund"}, "dataclass"),
        ({"actions.refund": "shop_actions:Missing"}, "shop_actions:Missing"),
        ({"actions.refund": "no_such_module:RefundArgs"}, "no_such_module"),
    ],
)
def test_a_wrong_entry_point_stops_the_start_and_is_named(install: Install, entries: dict[str, str], said: str) -> None:
    install(entries)
    with pytest.raises(ConfigurationError, match=said):
        load_action_handlers()
