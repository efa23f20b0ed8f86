"""Agent cards: what a workflow or an agent is, where it is reached, with which credentials; signed by the fleet."""

import base64
from dataclasses import dataclass
from typing import Any

from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentExtension,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    OpenIdConnectSecurityScheme,
    SecurityRequirement,
    SecurityScheme,
    StringList,
)
from a2a.utils.constants import PROTOCOL_VERSION_1_0, TransportProtocol
from a2a.utils.signing import ProtectedHeader, create_agent_card_signer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from starlette.requests import Request

from gateway.a2a.errors import PREFIX
from gateway.a2a.tasks import MODES
from gateway.card_key import AgentCardKey
from gateway.runs.askable import RunTarget
from gateway.services import GatewayServices

KEYS_PATH = "/.well-known/jwks.json"
SCHEMAS = "urn:flotilla:a2a:schemas"
"""The extension of extended cards whose parameters are the JSON schemas of input and output."""
_SCHEME = "flotilla"
_OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class AgentCards:
    """Makes cards; without a key they are not signed."""

    key: AgentCardKey | None
    public_url: str | None
    oidc_issuer: str | None
    notifies: bool
    """Whether there are hosts that may get notices."""

    @classmethod
    def of(cls, services: GatewayServices) -> "AgentCards":
        """Return what makes the gateway's cards."""
        return cls(services.card_key, services.public_url, services.oidc_issuer, bool(services.notify_hosts))

    def card(self, request: Request, agent: RunTarget, others: list[RunTarget] | None = None) -> AgentCard:
        """Return the agent's card; with `others`, the extended one, which has its schemas and what else is served."""
        base = (self.public_url or str(request.base_url)).rstrip("/")
        extensions = [_schemas(agent)] if others is not None and agent.input_schema else []
        card = AgentCard(
            name=agent.name,
            description=agent.description,
            version=agent.version,
            supported_interfaces=[_interface(base, agent, kind) for kind in TransportProtocol if kind != "GRPC"],
            capabilities=AgentCapabilities(
                streaming=True, push_notifications=self.notifies, extended_agent_card=True, extensions=extensions
            ),
            security_schemes=self._schemes(),
            security_requirements=[SecurityRequirement(schemes={name: StringList()}) for name in self._schemes()],
            default_input_modes=MODES,
            default_output_modes=MODES,
            skills=[_skill(agent), *(_skill(one, base) for one in others or () if one != agent)],
        )
        return self._signed(card, base)

    def public_keys(self) -> dict[str, Any]:
        """Return the keys that verify cards, as a JSON Web Key Set (RFC 7517, 8037)."""
        keys = self.key.public_keys.by_id if self.key else {}
        return {"keys": [_json_web_key(key_id, key) for key_id, key in keys.items()]}

    def _schemes(self) -> dict[str, SecurityScheme]:
        description = "An API key of the fleet, or a token of its OpenID provider."
        bearer = HTTPAuthSecurityScheme(scheme="Bearer", description=description)
        schemes = {_SCHEME: SecurityScheme(http_auth_security_scheme=bearer)}
        if self.oidc_issuer is not None:
            url = f"{self.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
            oidc = OpenIdConnectSecurityScheme(open_id_connect_url=url)
            schemes[_OIDC] = SecurityScheme(open_id_connect_security_scheme=oidc)
        return schemes

    def _signed(self, card: AgentCard, base: str) -> AgentCard:
        if self.key is None:
            return card
        kid, jku = self.key.signer.key_id, f"{base}{KEYS_PATH}"
        return create_agent_card_signer(self.key.pem, ProtectedHeader(kid=kid, alg="EdDSA", jku=jku, typ="JOSE"))(card)


def _json_web_key(key_id: str, key: Ed25519PublicKey) -> dict[str, str]:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key_id, "x": x}


def agent_path(agent: RunTarget) -> str:
    """Return where the agent is served."""
    return f"{PREFIX}{agent.kind}/{agent.name}"


def _interface(base: str, agent: RunTarget, kind: TransportProtocol) -> AgentInterface:
    return AgentInterface(
        url=f"{base}{agent_path(agent)}", protocol_binding=kind.value, protocol_version=PROTOCOL_VERSION_1_0
    )


def _skill(agent: RunTarget, elsewhere: str = "") -> AgentSkill:
    """The agent's skill; `elsewhere`: of another agent, with its address."""
    place = f" It is served at {elsewhere}{agent_path(agent)}." if elsewhere else ""
    return AgentSkill(
        id=f"{agent.kind}/{agent.name}",
        name=agent.name,
        description=f"{agent.description}{place}",
        tags=[agent.kind.removesuffix("s")],
        input_modes=MODES[:1] if agent.takes_only_a_question else MODES,
    )


def _schemas(agent: RunTarget) -> AgentExtension:
    schemas = {"input": dict(agent.input_schema), "output": dict(agent.output_schema)}
    return AgentExtension(
        uri=SCHEMAS,
        description="The JSON schemas of what the agent takes and returns.",
        params=ParseDict(schemas, Struct()),
    )
