"""A policy file that changes while a service runs."""

from pathlib import Path

import pytest

from flotilla.approvals.reloading import ReloadingPolicyFile
from flotilla.contracts.errors import ConfigurationError

ROLES = '[defaults]\nroles = ["approver"]\n'
ONE = f'version = "1"\n{ROLES}[actions.pay]\nrisk = "low"\n'
TWO = f'version = "2"\n{ROLES}[actions.pay]\nrisk = "high"\n# end\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(ONE)
    return path


def test_another_content_is_in_force_once_two_looks_have_seen_it(file: Path) -> None:
    policies = ReloadingPolicyFile(str(file))
    before = policies.current_policy
    assert (policies.reload_if_changed(), policies.reload_if_changed()) == (False, False)
    file.write_text(TWO)
    assert (policies.reload_if_changed(), policies.current_policy is before) == (False, True)
    assert policies.reload_if_changed()
    assert policies.current_policy.version.startswith("2+")
    assert policies.current_policy.assess_risk("pay", {}).risk_level == "high"
    assert before.assess_risk("pay", {}).risk_level == "low"
    assert not policies.reload_if_changed()


def test_a_file_that_is_being_written_is_never_in_force(file: Path) -> None:
    policies = ReloadingPolicyFile(str(file))
    for end in range(len('version = "2"\n'), len(TWO)):
        file.write_text(TWO[:end])
        assert not any(policies.reload_if_changed() for _ in range(3)), TWO[:end]  # however long it stays like that
    assert policies.current_policy.version.startswith("1+")
    file.write_text(TWO)
    assert not policies.reload_if_changed()
    assert policies.reload_if_changed()


def test_a_link_to_another_file_is_followed_as_in_a_config_map(tmp_path: Path) -> None:
    for name, text in {"one": ONE, "two": TWO.removesuffix("# end\n")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.toml").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "policy.toml").symlink_to("..data/policy.toml")
    policies = ReloadingPolicyFile(str(tmp_path / "policy.toml"))
    assert (policies.reload_if_changed(), policies.reload_if_changed()) == (False, False)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert (policies.reload_if_changed(), policies.reload_if_changed()) == (False, True)
    assert policies.current_policy.version.startswith("2+")
    (tmp_path / "two" / "policy.toml").write_text(ONE)
    assert not any(policies.reload_if_changed() for _ in range(3))


def test_a_link_to_the_same_content_does_not_make_what_is_written_there_later_whole(file: Path) -> None:
    link = file.with_name("link.toml")
    link.symlink_to(file)
    policies = ReloadingPolicyFile(str(link))
    copy = file.with_name("copy.toml")
    copy.write_text(ONE)
    link.unlink()
    link.symlink_to(copy)
    assert not policies.reload_if_changed()
    copy.write_text(TWO.removesuffix("# end\n"))
    assert not any(policies.reload_if_changed() for _ in range(3))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = ",
        "version = 2",
        TWO + "[risks]\n",
        TWO + "[risk.high]\nquorum = 0\n",
        None,
        "\x00",
        pytest.param(TWO + "x = " + "[" * 5_000, id="deep"),
        pytest.param(TWO + "x = " + "1" * 5_000, id="long"),
    ],
)
def test_a_file_that_can_not_be_used_changes_nothing(file: Path, text: str | None) -> None:
    policies = ReloadingPolicyFile(str(file))
    before = policies.current_policy
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert not any(policies.reload_if_changed() for _ in range(3))
    assert policies.current_policy is before
    with pytest.raises(ConfigurationError):
        ReloadingPolicyFile(str(file))
    file.write_text(ONE)
    assert not any(policies.reload_if_changed() for _ in range(3))
