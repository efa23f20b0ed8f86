"""JWTs of an OpenID provider, checked by RFC 7519, RFC 8725 and OpenID Connect Core 3.1.3.7."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt
import structlog

from flotilla.contracts.identity import is_identity_text
from gateway.auth.jwks import Jwks
from gateway.auth.principal import Principal, known_roles

LEEWAY_S = 30
REQUIRED = ["exp", "iat", "iss", "aud", "sub"]
MAX_TOKEN_LENGTH = 16_384
MAX_SUBJECT_LENGTH = 256
MAX_GROUPS = 1000
MAX_REASON_CHARS = 300
_DOES_NOT_HOLD = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""The last three: what a provider signed may hold any JSON."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcTokenOptions:
    """What a token must hold, and where it says who somebody is."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    roles_claim: str = "roles"
    tenant_claim: str | None = None
    tenant: str = "default"
    person_claim: str = "email"
    groups_claim: str = "groups"


class OidcTokens:
    """Turns tokens into principals."""

    def __init__(self, options: OidcTokenOptions, keys: Jwks) -> None:
        self._options = options
        self._keys = keys

    async def find_principal(self, token: str) -> Principal | None:
        """Who the token speaks for; None when it does not hold.

        Raises:
            RetryLater: the provider's keys can't be had.
        """
        try:
            return await self._admitted(token)
        except _DOES_NOT_HOLD as error:
            # For operators; the sender learns only that it does not hold.
            log.info("token_refused", reason=f"{type(error).__name__}: {error}"[:MAX_REASON_CHARS])
            return None

    async def _admitted(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN_LENGTH:
            raise jwt.InvalidTokenError(f"it is longer than {MAX_TOKEN_LENGTH} characters")
        header = jwt.get_unverified_header(token)
        # Before the key is looked for: the token must not choose how it is checked.
        if header.get("alg") not in self._options.algorithms:
            raise jwt.InvalidAlgorithmError(f"its algorithm is not one of {', '.join(self._options.algorithms)}")
        key = await self._keys.key(header.get("kid"))
        if key is None:
            raise jwt.InvalidKeyError("the provider has no key of its id")
        return self._principal(self._checked(token, key))

    def _checked(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name] if key.algorithm_name in self._options.algorithms else [],
            audience=self._options.audience,
            issuer=self._options.issuer,
            leeway=LEEWAY_S,
            options={"require": REQUIRED, "verify_signature": True},
        )

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        tenant = _claim(claims, self._options.tenant_claim) if self._options.tenant_claim else self._options.tenant
        subject = claims["sub"]
        if not isinstance(tenant, str) or not tenant or not 0 < len(subject) <= MAX_SUBJECT_LENGTH:
            raise jwt.InvalidTokenError("its tenant or subject is empty, too long or no text")
        return Principal(
            tenant_id=tenant,
            subject=subject,
            roles=known_roles(_claim(claims, self._options.roles_claim)),
            is_person=bool(_claim(claims, self._options.person_claim)),
            issuer=self._options.issuer,
            groups=_groups(_claim(claims, self._options.groups_claim)),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )


def _groups(claimed: object) -> frozenset[str]:
    """The names in the claim, a list of them or one; what can't be the name of a group is left out."""
    names = [claimed] if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
    fit = [name for name in names if isinstance(name, str) and is_identity_text(name)]
    return frozenset(fit[:MAX_GROUPS])


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, or, where there is none, the nested one: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
