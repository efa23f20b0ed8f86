"""The policy file: layers, risk that can only rise, and mistakes that are reported at start."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla.approvals.policy import BUILTIN_POLICIES, parse_policy, read_policy
from flotilla.contracts.approvals import RISK_ORDER, content_hash, decision_update_id
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.requests import RiskLevel

LAYERS = """
version = "7"
[defaults]
roles = ["approver"]
quorum = 1
[risk.high]
quorum = 2
[actions.pay]
risk = "medium"
roles = ["treasurer"]
[actions.pay.high]
quorum = 3
[[actions.pay.raise_if]]
to = "high"
when = { currency = ["USD"], urgent = [true] }
because = "abroad and in a hurry"
"""


def test_the_more_special_rule_wins_field_by_field() -> None:
    policy = parse_policy(LAYERS, "test")
    medium = policy.approval_requirement("pay", policy.assess_risk("pay", {}))
    assert (medium.roles, medium.quorum, medium.required) == (["treasurer"], 1, True)
    high = policy.approval_requirement("pay", policy.assess_risk("pay", {}, "high"))
    assert (high.roles, high.quorum) == (["treasurer"], 3)
    other = policy.approval_requirement("other", policy.assess_risk("other", {}, "high"))
    assert (other.roles, other.quorum) == (["approver"], 2)
    assert policy.version.startswith("7+")


def test_arguments_raise_the_risk_and_say_why() -> None:
    policy = parse_policy(LAYERS, "test")
    raised = policy.assess_risk("pay", {"currency": "USD", "urgent": True})
    assert (raised.risk_level, raised.reasons[-1]) == ("high", "policy: abroad and in a hurry")
    assert policy.assess_risk("pay", {"currency": "USD", "urgent": False}).risk_level == "medium"


@given(requested=st.sampled_from(RISK_ORDER), action=st.sampled_from(["pay", "other", "echo"]))
def test_a_caller_can_raise_the_risk_and_never_lower_it(requested: RiskLevel, action: str) -> None:
    policy = parse_policy(LAYERS, "test")
    own = policy.assess_risk(action, {}).risk_level
    asked = policy.assess_risk(action, {}, requested).risk_level
    assert RISK_ORDER.index(asked) == max(RISK_ORDER.index(own), RISK_ORDER.index(requested))


def test_what_needs_no_approval_is_only_the_low_risk() -> None:
    for source in BUILTIN_POLICIES:
        policy = read_policy(source)
        required = {
            level: policy.approval_requirement("echo", policy.assess_risk("echo", {}, level)).required
            for level in RISK_ORDER
        }
        assert required == {"low": False, "medium": True, "high": True}


def test_signals_count_in_the_local_policy_only() -> None:
    for source, allowed in (("builtin:production", False), ("builtin:local", True)):
        policy = read_policy(source)
        assert policy.approval_requirement("echo", policy.assess_risk("echo", {}, "high")).allow_signal is allowed


def test_the_policy_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text()
    policy = parse_policy(page.partition("```toml\n")[2].partition("```")[0], "docs/approvals.md")
    pay = policy.approval_requirement("pay", policy.assess_risk("pay", {"currency": "USD"}))
    assert (pay.risk_level, pay.quorum, pay.editable_args) == ("high", 2, ["amount"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version = '1'\n[defaults]\nrolls = ['approver']", "rolls"),
        ("version = '1'\n[defaults]\nroles = []", "nobody could approve"),
        ("version = '1'\n[defaults]\nroles = ['a']\nquorum = 0", "quorum"),
        ("version = '1'\n[defaults]\nroles = ['a']\ndeadline_s = 10\nreminder_s = 20", "reminder_s"),
        ("version = '1'\n[defaults]\nroles = ['a']\ndeadline_s = nan", "deadline_s"),
        ("version = '1'\n[defaults]\nroles = ['a']\ndeadline_s = inf", "deadline_s"),
        ("version = '1'\n[actions.x]\nrisk = 'huge'", "huge"),
        ("version = ", "test"),
        pytest.param("version = " + "[" * 5_000, "recursion", id="deep"),
        pytest.param("version = " + "1" * 5_000, "4300 digits", id="long"),
        ("[defaults]\nroles = ['a']", "version"),
    ],
)
def test_a_wrong_policy_is_refused_at_start_with_its_reason(text: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        parse_policy(text, "test")


def test_a_missing_file_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="FLOTILLA_APPROVAL_POLICY"):
        read_policy("/nowhere/policy.toml")


def test_the_hash_is_of_what_would_be_executed_whatever_its_order() -> None:
    assert content_hash("a", {"x": 1, "y": [2]}) == content_hash("a", {"y": [2], "x": 1})
    assert content_hash("a", {"x": 1}) != content_hash("b", {"x": 1})
    assert content_hash("a", {"x": 1}) != content_hash("a", {"x": "1"})


def test_the_same_vote_has_the_same_id_and_another_one_has_not() -> None:
    first = decision_update_id("a1", "bob", "approve", "h")
    assert first == decision_update_id("a1", "bob", "approve", "h")
    others = [("a2", "bob", "approve", "h"), ("a1", "eve", "approve", "h"), ("a1", "bob", "approve", "g")]
    assert first not in {decision_update_id(*other) for other in others}  # type: ignore[arg-type]


def test_file_that_extends_a_builtin_one_changes_only_what_it_names() -> None:
    page = (Path(__file__).parents[3] / "docs" / "approvals.md").read_text()
    (example,) = [block for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "extends" in block]
    policy, base = parse_policy(example, "docs/approvals.md"), read_policy("builtin:production")
    assert policy.assess_risk("publish_answer", {}).risk_level == "high"
    assert policy.approval_requirement("publish_answer", policy.assess_risk("publish_answer", {})).quorum == 2
    for action, args in (("echo", {}), ("http_request", {"method": "POST"}), ("anything", {})):
        assert policy.assess_risk(action, args) == base.assess_risk(action, args)
    assert policy.approval_requirement("echo", policy.assess_risk("echo", {})).editable_args == ["text"]
    assert policy.version.startswith("2030-2+")


def test_lists_and_values_of_an_extending_file_replace_the_builtin_ones() -> None:
    policy = parse_policy('version = "1"\nextends = "builtin:local"\n[actions.http_request]\nraise_if = []', "test")
    assert policy.assess_risk("http_request", {"method": "POST"}).risk_level == "medium"


def test_extending_different_rules_gives_different_versions() -> None:
    versions = {parse_policy(f'version = "1"\nextends = "{base}"', "test").version for base in BUILTIN_POLICIES}
    assert len(versions) == len(BUILTIN_POLICIES)


@pytest.mark.parametrize("base", ['"builtin:none"', '"/etc/passwd"', "3", "[]", '["builtin:local"]', '""'])
def test_file_can_extend_the_builtin_ones_only(base: str) -> None:
    with pytest.raises(ConfigurationError, match=r"`extends` takes builtin:production or builtin:local"):
        parse_policy(f'version = "1"\nextends = {base}', "test")
