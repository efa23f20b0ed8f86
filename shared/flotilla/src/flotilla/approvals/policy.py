"""Who must approve what: one typed file, which gateway, worker and agents read and follow.

A rule is looked up from general to special, and the more special one wins field by field:
`[defaults]` < `[risk.<level>]` < `[actions.<name>]` < `[actions.<name>.<level>]`. An action that the file does not
name is treated as `[actions."*"]`. A key that nobody knows is an error, not a rule that silently does nothing.

With `extends = "builtin:production"` the file starts from the built-in rules instead of from nothing.
"""

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import msgspec

from flotilla.contracts.approvals import RISK_ORDER, ApprovalRequirement, Decision, SignatureRule
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.json_types import JsonObject, JsonScalar
from flotilla.contracts.requests import RiskLevel

BUILTIN_POLICIES: Mapping[str, str] = {"builtin:production": "production.toml", "builtin:local": "local.toml"}
"""`local` differs in one thing: it counts the signal `approve`, whose sender nobody proved."""
ANY_ACTION = "*"

PolicyRiskLevel: TypeAlias = Literal["low", "medium", "high"]
PrivacyKind: TypeAlias = Literal["erase", "export", "retention"]
"""What is asked for in privacy."""


class _ApprovalRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Fields that are not set leave the more general rule's."""

    required: bool | None = None
    roles: list[str] | None = None
    quorum: int | None = None
    deadline_s: float | None = None
    reminder_s: float | None = None
    verdict_at_deadline: Literal["reject", "approve"] | None = None
    exclude_requester: bool | None = None
    editable_args: list[str] | None = None
    reason_required: list[Decision] | None = None
    allow_signal: bool | None = None
    signature: SignatureRule | None = None


class _RaiseRiskCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Raises the risk when every named argument has one of the listed values."""

    to: PolicyRiskLevel
    when: dict[str, list[JsonScalar]]
    because: str


class _ActionRule(_ApprovalRule, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    risk: PolicyRiskLevel = "medium"
    raise_if: list[_RaiseRiskCondition] = []
    low: _ApprovalRule = _ApprovalRule()
    medium: _ApprovalRule = _ApprovalRule()
    high: _ApprovalRule = _ApprovalRule()


class _RiskRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    low: _ApprovalRule = _ApprovalRule(required=False)
    medium: _ApprovalRule = _ApprovalRule()
    high: _ApprovalRule = _ApprovalRule()


class _PrivacyRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By what is asked for, how many further people have to confirm it."""

    erase: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1
    export: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    retention: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1


class _PolicyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    privacy: _PrivacyRules = _PrivacyRules()
    defaults: _ApprovalRule = _ApprovalRule()
    risk: _RiskRules = _RiskRules()
    actions: dict[str, _ActionRule] = {}


@dataclass(frozen=True, slots=True)
class RiskAssessment:
    """How risky an action is, and why."""

    risk_level: RiskLevel
    reasons: list[str]


class PolicySource(Protocol):
    """Where the policy in force is found: a file that is followed, or one policy for good."""

    @property
    def current_policy(self) -> "ApprovalPolicy":
        """The policy in force."""


class ApprovalPolicy:
    """The rules of one policy file."""

    def __init__(self, rules: _PolicyFile, digest: str) -> None:
        self._rules = rules
        self.version = f"{rules.version}+{digest[:12]}"
        """The file's own version and the beginning of its SHA-256: what a decision is recorded with."""

    @property
    def current_policy(self) -> "ApprovalPolicy":
        """Itself: a policy that nothing replaces."""
        return self

    def privacy_confirmations(self, kind: PrivacyKind) -> int:
        """How many people besides the one who asks have to confirm it; at least one for an erasure."""
        needed: int = getattr(self._rules.privacy, kind)
        return needed

    def assess_risk(self, action: str, args: JsonObject, requested: RiskLevel = "low") -> RiskAssessment:
        """The action's risk by the file's rules. `requested` can raise it, never lower it."""
        rule = self._rules_for_action(action)
        level: RiskLevel = rule.risk
        reasons = [f"policy: {action} is {level}"]
        for raising in rule.raise_if:
            if _arguments_match(raising.when, args) and _is_higher_risk(raising.to, level):
                level = raising.to
                reasons.append(f"policy: {raising.because}")
        return raise_assessment_to(RiskAssessment(level, reasons), requested, "the requester asked for more care")

    def approval_requirement(self, action: str, assessment: RiskAssessment) -> ApprovalRequirement:
        """What must happen before the action is executed."""
        rule = self._rules_for_action(action)
        level = assessment.risk_level
        layers = [self._rules.defaults, getattr(self._rules.risk, level), rule, getattr(rule, level)]
        chosen = {name: value for layer in layers for name, value in _fields_that_are_set(layer).items()}
        return msgspec.convert(
            {
                "required": True,
                "risk_level": level,
                "reasons": assessment.reasons,
                "policy_version": self.version,
                **chosen,
            },
            ApprovalRequirement,
        )

    def _rules_for_action(self, action: str) -> _ActionRule:
        return self._rules.actions.get(action) or self._rules.actions.get(ANY_ACTION) or _ActionRule()


def raise_assessment_to(assessment: RiskAssessment, level: RiskLevel, because: str) -> RiskAssessment:
    """The assessment with at least `level`."""
    if not _is_higher_risk(level, assessment.risk_level):
        return assessment
    return RiskAssessment(level, [*assessment.reasons, because])


def parse_policy(text: str, name: str) -> ApprovalPolicy:
    """Reads a policy file's text.

    Raises:
        ConfigurationError: not TOML, an unknown key, a wrong type, or a rule that nobody could ever satisfy.
    """
    try:
        written, digest = _parse_with_base_policy(text)
        rules = msgspec.convert(written, _PolicyFile)
    except (
        ValueError,
        RecursionError,
        msgspec.ValidationError,
    ) as error:  # of TOML: nested too deep, too long a number
        raise ConfigurationError(f"approval policy {name}: {error}") from error
    policy = ApprovalPolicy(rules, digest)
    for action in [*rules.actions, ANY_ACTION]:
        for level in RISK_ORDER:
            _check_requirement(
                policy.approval_requirement(action, RiskAssessment(level, [])),
                f"approval policy {name}: {action}, {level}",
            )
    return policy


def read_policy(source: str) -> ApprovalPolicy:
    """Reads a policy from a path, `builtin:production` or `builtin:local`.

    Raises:
        ConfigurationError: it can't be read, or not used.
    """
    return parse_policy(read_policy_text(source), source)


def read_policy_text(source: str) -> str:
    """Reads the text of what `read_policy` takes.

    Raises:
        ConfigurationError: it can't be read.
    """
    builtin = BUILTIN_POLICIES.get(source)
    try:
        return _read_builtin_policy(builtin) if builtin else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"approval policy {source}: {error}; set FLOTILLA_APPROVAL_POLICY to a file, or "
            f"to {' or '.join(BUILTIN_POLICIES)}"
        ) from error


def _parse_with_base_policy(text: str) -> tuple[dict[str, Any], str]:
    """The file with what it extends, and the hash of both."""
    written = tomllib.loads(text)
    if "extends" not in written:
        return written, hashlib.sha256(text.encode()).hexdigest()
    base = written.pop("extends")
    if base not in list(BUILTIN_POLICIES):
        raise msgspec.ValidationError(f"`extends` takes {' or '.join(BUILTIN_POLICIES)}, not {base!r}")
    base_text = _read_builtin_policy(BUILTIN_POLICIES[base])
    return _merge_tables(tomllib.loads(base_text), written), hashlib.sha256((base_text + text).encode()).hexdigest()


def _merge_tables(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; anything else replaces what was there."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _merge_tables(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _read_builtin_policy(file: str) -> str:
    return resources.files(__package__).joinpath(file).read_text("utf-8")


def _check_requirement(requirement: ApprovalRequirement, where: str) -> None:
    if not requirement.required:
        return
    if not requirement.roles:
        raise ConfigurationError(f"{where}: nobody could approve; set roles")
    if requirement.quorum < 1 or not 0 < requirement.deadline_s < math.inf:
        raise ConfigurationError(f"{where}: quorum and deadline_s must be positive, and not endless")
    if requirement.signature == "required" and requirement.verdict_at_deadline == "approve":
        raise ConfigurationError(
            f"{where}: nobody signs what a deadline approves; set verdict_at_deadline or signature"
        )
    if requirement.reminder_s is not None and not 0 < requirement.reminder_s < requirement.deadline_s:
        raise ConfigurationError(f"{where}: reminder_s must lie between 0 and deadline_s")


def _fields_that_are_set(rule: _ApprovalRule) -> dict[str, object]:
    return {name: value for name in _ApprovalRule.__struct_fields__ if (value := getattr(rule, name)) is not None}


def _arguments_match(when: Mapping[str, Sequence[JsonScalar]], args: JsonObject) -> bool:
    return all(args.get(name) in values for name, values in when.items())


def _is_higher_risk(level: RiskLevel, other: RiskLevel) -> bool:
    return RISK_ORDER.index(level) > RISK_ORDER.index(other)
