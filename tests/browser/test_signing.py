"""Passkeys in Chromium, with its virtual authenticator: enroll, approve, and what does not count."""

import base64
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.sync_api import Browser, CDPSession, Page, Route, expect

from flotilla_devstack.ports import free_port
from gateway.console_files import FOLDER
from tests.browser.console import TIMEOUT_MS, Console, answered, until
from tests.e2e.fleet import Fleet
from tests.support.votes import Passkey

POLICY = """
version = "signed"
extends = "builtin:local"
[actions.publish_answer]
signature = "required"
"""
# Signs a statement with any passkey of the person, as a page of any site can.
SIGN = """
async ({ statement, id, rpId, userVerification }) => {
  const url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  const raw = Uint8Array.from(atob(id.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
  const challenge = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(statement));
  const allowCredentials = [{ type: "public-key", id: raw }];
  const publicKey = { challenge, rpId, allowCredentials, userVerification };
  const { response } = await navigator.credentials.get({ publicKey });
  return {
    value: url(response.signature),
    client_data: url(response.clientDataJSON),
    authenticator_data: url(response.authenticatorData),
  };
}
"""


@dataclass
class Authenticator:
    """A page's virtual authenticator, by the WebAuthn domain of the Chrome DevTools Protocol."""

    session: CDPSession
    id: str

    @classmethod
    def of(cls, page: Page) -> "Authenticator":
        session = page.context.new_cdp_session(page)
        session.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        return cls(session, session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"])

    def send(self, method: str, **parameters: Any) -> Any:
        return self.session.send(f"WebAuthn.{method}", {"authenticatorId": self.id, **parameters})

    def credential(self) -> dict[str, Any]:
        [credential] = self.send("getCredentials")["credentials"]
        found: dict[str, Any] = credential
        return found


@dataclass
class Signing:
    """A fleet whose policy asks for signatures, and an administrator whose passkey is its root."""

    console: Console
    root: Passkey

    def person(self, name: str, *roles: str) -> Page:
        if name not in self.console.keys:
            body = {"name": name, "roles": ["viewer", *roles], "person": True}
            with self.console.api("admin") as admin:
                self.console.keys[name] = admin.post("/v1/keys", json=body).json()["key"]
        return self.console.person(name)

    def voter(self) -> tuple[str, Page, Authenticator]:
        """A new approver with an enrolled and approved passkey."""
        name = f"voter-{secrets.token_hex(3)}"
        page = self.person(name, "approver")
        authenticator = Authenticator.of(page)
        enroll(page)
        fingerprint = page.locator("code").first.inner_text()
        self.approve(name, fingerprint)
        return name, page, authenticator

    def approve(self, name: str, fingerprint: str) -> None:
        """Grace approves the key of `name` in the console, with her own passkey."""
        page = self.person("grace", "admin")
        key = self.root.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        credential = {
            "credentialId": base64.b64encode(base64.urlsafe_b64decode(self.root.credential_id + "==")).decode(),
            "isResidentCredential": True,
            "rpId": "localhost",
            "privateKey": base64.b64encode(key).decode(),
            "userHandle": base64.b64encode(b"grace").decode(),
            "signCount": 0,
        }
        Authenticator.of(page).send("addCredential", credential=credential)
        page.goto("/signers")
        row = page.get_by_role("row").filter(has_text=name)
        row.get_by_role("button", name="Approve…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Fingerprint").fill(fingerprint)
        dialog.get_by_role("button", name="Sign the approval").click()
        expect(row.get_by_text("approved", exact=True)).to_be_visible()

    def asked(self) -> str:
        """The id of an action that waits for a signed vote."""
        with self.console.api() as api:
            run = answered(api, f"s-{secrets.token_hex(4)}", "Who inspects the mooring lines?")
            body = {"action": "publish_answer", "description": "A trial", "args": {"run_id": run["run_id"]}}
            action_id = str(api.post("/v1/actions", json=body).json()["action_id"])
            until(lambda: api.get(f"/v1/approvals/{action_id}").status_code == 200)
        return action_id

    def get(self, path: str) -> Any:
        with self.console.api() as api:
            return api.get(path).json()

    def statement(self, name: str, action_id: str) -> str:
        approval = self.get(f"/v1/approvals/{action_id}")
        members = {
            "type": "flotilla.vote.v1",
            "tenant": "default",
            "approval_id": action_id,
            "content_hash": approval["content_hash"],
            "decision": "approve",
            "policy_version": approval["signing_policy_version"],
            "subject": name,
            "requested_by": approval["requested_by"],
            "on_behalf_of": "",
            "time": approval["created_at"].split("+")[0].rstrip("Z")[:26] + "Z",
        }
        return json.dumps(members, separators=(",", ":"))

    def vote(self, name: str, action_id: str, statement: str, signature: dict[str, str]) -> tuple[int, str]:
        """Sends a vote as the API takes it; returns the status and code."""
        [signer] = self.get(f"/v1/signers?subject={name}")["signers"]
        approval = self.get(f"/v1/approvals/{action_id}")
        signed = {"signer_id": signer["signer_id"], "statement": statement, "signature": signature}
        body = {"decision": "approve", "content_hash": approval["content_hash"], "signature": signed}
        with self.console.api(name) as api:
            answer = api.post(f"/v1/approvals/{action_id}/decision", json=body)
        return answer.status_code, f"{answer.json().get('code')}: {answer.json().get('detail')}"

    def sign(self, name: str, page: Page, statement: str, verification: str = "required") -> dict[str, str]:
        [signer] = self.get(f"/v1/signers?subject={name}")["signers"]
        asked = {"statement": statement, "id": signer["credential_id"], "rpId": "localhost"}
        signature: dict[str, str] = page.evaluate(SIGN, {**asked, "userVerification": verification})
        return signature

    def status(self, action_id: str) -> str:
        return str(self.get(f"/v1/approvals/{action_id}")["status"])


def enroll(page: Page) -> None:
    page.goto("/signers")
    page.get_by_label("Name of the passkey").fill("laptop")
    page.get_by_role("button", name="Enroll a passkey").click()
    expect(page.locator("#main").get_by_text("pending")).to_be_visible()


@pytest.fixture(scope="module")
def _signing(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Signing]:
    assert (FOLDER / "index.html").is_file(), "the console is not built: make console"
    folder, port, root = tmp_path_factory.mktemp("signing"), free_port(), Passkey(rp_id="localhost")
    policy, roots = folder / "policy.toml", folder / "roots.toml"
    policy.write_text(POLICY)
    roots.write_text(
        f'[passkeys]\nrp_id = "localhost"\norigins = ["http://localhost:{port}"]\n'
        f'[[roots]]\ntenant = "default"\nsubject = "grace"\nkind = "passkey"\n'
        f'public_key = "{root.public_key}"\ncredential_id = "{root.credential_id}"\n'
    )
    environment = {
        "FLOTILLA_APPROVAL_POLICY": str(policy),
        "FLOTILLA_VOTE_ROOTS": str(roots),
        "FLOTILLA_SESSION_VISIBILITY": "tenant",
        "OPENAI_API_KEY": "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    }
    fleet = Fleet(folder / "home", environment, port)
    fleet.home.mkdir()
    try:
        fleet.up()
        fleet.cli("documents", "add", str(Path(__file__).parent / "handbook.md"))
        keys = json.loads(Path(fleet.status()["keys_file"]).read_text())
        yield Signing(Console(browser, fleet, f"http://localhost:{port}", keys), root)
    finally:
        fleet.down()


@pytest.fixture
def signing(_signing: Signing) -> Iterator[Signing]:
    expect.set_options(timeout=TIMEOUT_MS)
    yield _signing
    _signing.console.close()


def test_a_person_enrolls_a_passkey_and_signs_an_approval_with_it(signing: Signing) -> None:
    name, page, _ = signing.voter()
    action_id = signing.asked()
    page.goto(f"/approvals/{action_id}")
    page.get_by_role("button", name="Approve and sign").click()
    expect(page.get_by_text("signed", exact=True)).to_be_visible()
    expect(page.get_by_text("completed")).to_be_visible()
    [vote] = signing.get(f"/v1/approvals/{action_id}")["votes"]
    assert (vote["subject"], vote["signed"]) == (name, True)
    signing.console.check()


def test_without_an_approved_key_nobody_approves(signing: Signing) -> None:
    page = signing.person(f"voter-{secrets.token_hex(3)}", "approver")
    Authenticator.of(page)
    enroll(page)
    action_id = signing.asked()
    page.goto(f"/approvals/{action_id}")
    expect(page.get_by_text("You have no approved passkey")).to_be_visible()
    expect(page.get_by_role("button", name="Approve and sign")).to_be_disabled()


def test_a_vote_without_user_verification_is_refused(signing: Signing) -> None:
    name, page, authenticator = signing.voter()
    authenticator.send("setUserVerified", isUserVerified=False)
    action_id = signing.asked()
    page.goto(f"/approvals/{action_id}")
    page.get_by_role("button", name="Approve and sign").click()
    expect(page.get_by_role("alert")).to_be_visible()  # the browser's own refusal
    statement = signing.statement(name, action_id)
    status, why = signing.vote(name, action_id, statement, signing.sign(name, page, statement, "discouraged"))
    assert status == 403
    assert "not verified" in why
    assert signing.status(action_id) == "pending"


def test_a_copied_passkey_is_found_by_its_counter(signing: Signing) -> None:
    name, page, authenticator = signing.voter()
    copied = authenticator.credential()
    first, second = signing.asked(), signing.asked()
    page.goto(f"/approvals/{first}")
    page.get_by_role("button", name="Approve and sign").click()
    expect(page.get_by_text("completed")).to_be_visible()
    other = signing.console.person(name)
    Authenticator.of(other).send("addCredential", credential=copied)
    other.goto(f"/approvals/{second}")
    other.get_by_role("button", name="Approve and sign").click()
    expect(other.get_by_text("there is a copy of it")).to_be_visible()
    assert signing.status(second) == "pending"


def test_a_vote_that_was_signed_at_another_origin_is_refused(signing: Signing) -> None:
    name, page, _ = signing.voter()
    action_id = signing.asked()
    statement = signing.statement(name, action_id)

    def answer(route: Route) -> None:
        route.fulfill(content_type="text/html", body="<title>Win a prize</title>")

    page.route("http://localhost:9/**", answer)
    page.goto("http://localhost:9/prize")
    status, why = signing.vote(name, action_id, statement, signing.sign(name, page, statement))
    assert (status, "origin" in why) == (403, True), why
    page.goto(f"/approvals/{action_id}")
    assert signing.vote(name, action_id, statement, signing.sign(name, page, statement))[0] == 200


def test_a_signed_vote_is_not_replayed_for_another_action(signing: Signing) -> None:
    name, page, _ = signing.voter()
    first, second = signing.asked(), signing.asked()
    page.goto(f"/approvals/{first}")
    with page.expect_request(lambda request: request.url.endswith("/decision")) as sent:
        page.get_by_role("button", name="Approve and sign").click()
    expect(page.get_by_text("completed")).to_be_visible()
    signed = json.loads(sent.value.post_data or "{}")["signature"]
    status, why = signing.vote(name, second, signed["statement"], signed["signature"])
    assert (status, "signed for approval_id" in why) == (403, True), why
    forged = signed["statement"].replace(first, second)
    status, why = signing.vote(name, second, forged, signed["signature"])
    assert (status, "challenge" in why) == (403, True), why
    assert signing.status(second) == "pending"
