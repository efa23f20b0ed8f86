/** Signs statements with a passkey: the device verifies the person, the challenge is the hash of what they were shown. */

import type { Approval, Decision, Me, Passkeys, Signer } from "../api/types";

export interface Signed {
  statement: string;
  signature: { value: string; client_data: string; authenticator_data: string };
}

export interface VoteSignature extends Signed {
  signer_id: string;
}

/** COSE algorithms, in the order in which an authenticator chooses: ES256, EdDSA, RS256. */
const ALGORITHMS = [-7, -8, -257];
const TIMEOUT_MS = 120_000;
const EXTENSIONS = 0x80;

/** Whether this browser can use passkeys at this address (https, or localhost). */
export const hasPasskeys = () => "credentials" in navigator && window.isSecureContext;

/** Makes a passkey and the person's statement that it is theirs, signed with it. */
export async function enrolledPasskey(me: Me, name: string, passkeys: Passkeys, mine: readonly Signer[]): Promise<Signed> {
  const made = await navigator.credentials.create({ publicKey: await creation(me, passkeys, mine) });
  if (!(made instanceof PublicKeyCredential) || !(made.response instanceof AuthenticatorAttestationResponse)) {
    throw new Error("The browser made no passkey.");
  }
  const statement = JSON.stringify({
    type: "flotilla.signer.v1",
    tenant: me.tenant,
    subject: me.subject,
    kind: "passkey",
    public_key: `cose ${base64(coseKey(new Uint8Array(made.response.getAuthenticatorData())))}`,
    credential_id: base64url(made.rawId),
    name,
    time: nowText(),
  });
  return (await signed(statement, passkeys, [made.rawId])).signed;
}

async function creation(me: Me, passkeys: Passkeys, mine: readonly Signer[]): Promise<PublicKeyCredentialCreationOptions> {
  return {
    rp: { id: passkeys.rp_id, name: "Flotilla" },
    user: { id: await sha256(`${me.tenant}/${me.subject}`), name: me.subject, displayName: me.subject },
    // What proves the key is the signed statement that follows, so that this needs no challenge of the server's.
    challenge: crypto.getRandomValues(new Uint8Array(32)),
    pubKeyCredParams: ALGORITHMS.map((alg) => ({ type: "public-key", alg })),
    authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
    excludeCredentials: credentialsOf(mine).map((id) => ({ type: "public-key", id })),
    attestation: "none",
    timeout: TIMEOUT_MS,
  };
}

/** The public key in the authenticator's data: behind 55 bytes and the credential's id (WebAuthn, 6.1 and 6.5.1). */
function coseKey(data: Uint8Array): Uint8Array {
  const [flags = 0, high = 0, low = 0] = [data[32], data[53], data[54]];
  if ((flags & EXTENSIONS) !== 0) throw new Error("This authenticator adds data that can't be used here.");
  return data.slice(55 + high * 256 + low);
}

/** The person's signature over their decision on exactly what they were shown. */
export async function signedVote(
  approval: Approval,
  decision: Decision,
  me: Me,
  passkeys: Passkeys,
  mine: readonly Signer[],
): Promise<VoteSignature> {
  if (hex(await sha256(approval.content)) !== approval.content_hash) {
    throw new Error("What is shown does not have the hash that would be signed: do not decide, and report it.");
  }
  const statement = JSON.stringify({
    type: "flotilla.vote.v1",
    tenant: me.tenant,
    approval_id: approval.approval_id,
    content_hash: approval.content_hash,
    decision,
    policy_version: approval.signing_policy_version,
    subject: me.subject,
    requested_by: approval.requested_by,
    on_behalf_of: approval.on_behalf_of ?? "",
    time: nowText(),
  });
  const usable = usablePasskeys(mine);
  const done = await signed(statement, passkeys, credentialsOf(usable));
  const signer = usable.find((one) => one.credential_id === done.credentialId);
  if (signer === undefined) throw new Error("The passkey that signed is not one of yours.");
  return { signer_id: signer.signer_id, ...done.signed };
}

/** An administrator's signature that a key is that person's. */
export async function signedApproval(signer: Signer, me: Me, passkeys: Passkeys, mine: readonly Signer[]): Promise<Signed> {
  const now = Date.now();
  const statement = JSON.stringify({
    type: "flotilla.signer-approval.v1",
    tenant: me.tenant,
    subject: signer.subject,
    statement: hex(await sha256(signer.signed.statement)),
    roles: ["approver"],
    approved_by: me.subject,
    expires_at: timeText(now + 365 * 86_400_000),
    time: timeText(now),
  });
  return (await signed(statement, passkeys, credentialsOf(mine))).signed;
}

/** The fingerprint of what would be approved, from the statement itself: a listing can say anything. */
export async function fingerprintOf(signer: Signer): Promise<string> {
  const { public_key } = JSON.parse(signer.signed.statement) as { public_key: string };
  const key = Uint8Array.from(atob(public_key.split(" ")[1] ?? ""), (one) => one.charCodeAt(0));
  return `SHA256:${base64(new Uint8Array(await crypto.subtle.digest("SHA-256", key))).replace(/=+$/, "")}`;
}

/** The person's passkeys that can sign a vote now. */
export const usablePasskeys = (signers: readonly Signer[]) =>
  signers.filter((one) => one.kind === "passkey" && one.status === "approved");

async function signed(statement: string, passkeys: Passkeys, ids: BufferSource[]): Promise<{ signed: Signed; credentialId: string }> {
  const found = await navigator.credentials.get({
    publicKey: {
      challenge: await sha256(statement),
      rpId: passkeys.rp_id,
      allowCredentials: ids.map((id) => ({ type: "public-key", id })),
      userVerification: "required",
      timeout: TIMEOUT_MS,
    },
  });
  if (!(found instanceof PublicKeyCredential) || !(found.response instanceof AuthenticatorAssertionResponse)) {
    throw new Error("The browser signed nothing.");
  }
  const { signature, clientDataJSON, authenticatorData } = found.response;
  return {
    credentialId: base64url(found.rawId),
    signed: {
      statement,
      signature: {
        value: base64url(signature),
        client_data: base64url(clientDataJSON),
        authenticator_data: base64url(authenticatorData),
      },
    },
  };
}

const credentialsOf = (signers: readonly Signer[]) =>
  signers.filter((one) => one.kind === "passkey" && one.status !== "revoked").map((one) => fromBase64url(one.credential_id));

const nowText = () => timeText(Date.now());
const timeText = (ms: number) => new Date(ms).toISOString();
const sha256 = (text: string) => crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
const hex = (bytes: ArrayBuffer) => [...new Uint8Array(bytes)].map((one) => one.toString(16).padStart(2, "0")).join("");
const base64 = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes));
const base64url = (bytes: ArrayBuffer) =>
  base64(new Uint8Array(bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const fromBase64url = (text: string) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
