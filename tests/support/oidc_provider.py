"""A tiny OpenID provider on loopback: discovery, keys, authorization, token. Signs with a key pair of its own.

It logs in the user that the test names, and checks what a provider has to check: client, redirect address, PKCE, one
use of each code.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID = "console"
CLIENT_SECRET = "a secret: with /odd characters"


@cache
def first_key() -> rsa.RSAPrivateKey:
    """The key that each provider starts with: to find one takes long."""
    return rsa.generate_private_key(65537, 2048)


@dataclass
class OidcProvider:
    """What the provider does; a test changes it between requests."""

    url: str = ""
    claims: dict[str, Any] = field(
        default_factory=lambda: {"sub": "paula", "email": "paula@example.com", "roles": ["operator", "approver"]}
    )
    """Of the user who logs in next."""
    refuse: str | None = None
    """An error that the authorization endpoint answers with."""
    tamper: dict[str, Any] = field(default_factory=dict)
    """Claims of the identity token in place of the right ones."""
    authorizations: list[dict[str, str]] = field(default_factory=list)
    key: rsa.RSAPrivateKey = field(default_factory=first_key)
    key_id: str = "one"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        self.authorizations.append(query)
        back: dict[str, str] = {"state": query["state"], "iss": self.url}
        if self.refuse is not None:
            return f"{query['redirect_uri']}?{urlencode({**back, 'error': self.refuse})}"
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({**back, 'code': code})}"

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """The token endpoint's answer."""
        request = self.codes.pop(form.get("code", ""), None)
        scheme, _, pair = authorization.partition(" ")
        client, _, secret = base64.b64decode(pair).decode().partition(":")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (scheme, unquote(client), unquote(secret)) != ("Basic", CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        if request is None or request["redirect_uri"] != form["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        if request["code_challenge_method"] != "S256" or request["code_challenge"] != challenge:
            return 400, {"error": "invalid_grant"}
        return 200, {"token_type": "Bearer", "access_token": "opaque", "id_token": self.id_token(request["nonce"])}

    def id_token(self, nonce: str) -> str:
        """An identity token, with `tamper` on top."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce, **self.claims}
        return jwt.encode({**claims, **self.tamper}, self.key, algorithm="RS256", headers={"kid": self.key_id})

    def jwks(self) -> dict[str, Any]:
        """The public key."""
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**jwk, "kid": self.key_id, "use": "sig", "alg": "RS256"}]}

    def discovery(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize?prompt=login",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
        }


@contextmanager
def oidc_provider() -> Iterator[OidcProvider]:
    """A provider for as long as the block runs."""
    provider = OidcProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.send_response(302)
                self.send_header("Location", provider.authorize(query))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            documents = {"/.well-known/openid-configuration": provider.discovery, "/keys": provider.jwks}
            self._answer(200, documents[parts.path]())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._answer(*provider.redeem(form, self.headers.get("Authorization", "")))

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="oidc-provider")
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
