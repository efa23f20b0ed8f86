import pytest

from flotilla.telemetry import is_sampled

IDS = "00-b1c667378d66197192e3e48d344211e5-cc1a685bcaef7f5e"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_only_the_lowest_flag_says_sampled(flags: str, sampled: bool) -> None:
    assert is_sampled(f"{IDS}-{flags}") is sampled
