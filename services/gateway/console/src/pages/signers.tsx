import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Me, Passkeys, Signer } from "../api/types";
import { isAdmin, me } from "../lib/account";
import { useActing, useLoaded, useTitle } from "../lib/hooks";
import { carryOut, say } from "../lib/saying";
import { enrolledPasskey, fingerprintOf, hasPasskeys, signedApproval } from "../lib/signing";
import { Confirm, Dialog } from "../ui/dialog";
import { Async, Button, Card, Empty, Field, Page, Problem, Status, When } from "../ui/parts";

const NO_PASSKEYS = "No passkey counts here: the operators have not set it up. Keys of the command line do: flotilla signers enroll.";
const INSECURE = "This browser uses passkeys over https only.";

export function SignersPage() {
  useTitle("Signing keys");
  const who = me.value;
  const loaded = useLoaded(() => api.listSigners(), []);
  if (who === null) return null;
  return (
    <Page title="Signing keys" lead="The keys with which people sign their votes. Each counts once a second administrator approved it.">
      <Async of={loaded} lines={5}>
        {({ signers, passkeys }) => {
          const mine = signers.filter((one) => one.subject === who.subject);
          const others = signers.filter((one) => one.subject !== who.subject);
          return (
            <>
              <Card title="Yours">
                <Enroll me={who} passkeys={passkeys} mine={mine} reload={loaded.reload} />
                <Table signers={mine} reload={loaded.reload} />
              </Card>
              {isAdmin.value && (
                <Card title="Of others">
                  <Table
                    signers={others}
                    reload={loaded.reload}
                    approve={passkeys === null ? undefined : { me: who, passkeys, mine }}
                  />
                </Card>
              )}
            </>
          );
        }}
      </Async>
    </Page>
  );
}

interface EnrollProps {
  me: Me;
  passkeys: Passkeys | null;
  mine: Signer[];
  reload: () => Promise<void>;
}

function Enroll({ me: who, passkeys, mine, reload }: EnrollProps) {
  const [name, setName] = useState("");
  const acting = useActing();
  if (who.kind !== "person") return <p class="note">Only people sign votes: this is the key of a service.</p>;
  if (passkeys === null || !hasPasskeys()) return <p class="note">{passkeys === null ? NO_PASSKEYS : INSECURE}</p>;
  const enroll = async () => {
    await api.enrollSigner(await enrolledPasskey(who, name.trim(), passkeys, mine));
    say("Enrolled. Tell an administrator its fingerprint, in person or by phone.");
    setName("");
    await reload();
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void acting.run(enroll);
      }}
    >
      <Field label="Name of the passkey" help="Such as the device it is on. Your device asks twice: to make it, and to sign with it.">
        {(ids) => (
          <input {...ids} value={name} maxLength={100} required onInput={(event) => setName(event.currentTarget.value)} />
        )}
      </Field>
      <Button type="submit" variant="primary" icon="shield" isBusy={acting.isBusy} disabled={name.trim() === ""}>
        Enroll a passkey
      </Button>
      <Problem error={acting.error} />
    </form>
  );
}

interface Approving {
  me: Me;
  passkeys: Passkeys;
  mine: Signer[];
}

interface TableProps {
  signers: Signer[];
  reload: () => Promise<void>;
  approve?: Approving | undefined;
}

function Table({ signers, reload, approve }: TableProps) {
  const [revoked, setRevoked] = useState<Signer | null>(null);
  const [approved, setApproved] = useState<Signer | null>(null);
  if (signers.length === 0) return <Empty icon="shield" title="No key yet" />;
  return (
    <>
      <table class="list" aria-label="Signing keys">
        <thead>
          <tr>
            <th scope="col">Person</th>
            <th scope="col">Key</th>
            <th scope="col">Status</th>
            <th scope="col">Until</th>
            <th scope="col">
              <span class="hidden">What can be done</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {signers.map((one) => (
            <tr key={one.signer_id}>
              <th scope="row" data-label="Person">
                {one.subject}
              </th>
              <td data-label="Key">
                <div>
                  {one.name} <span class="faint">({one.kind})</span>
                  <div>
                    <code class="break">{one.fingerprint}</code>
                  </div>
                </div>
              </td>
              <td data-label="Status">
                <Status value={one.status} />
              </td>
              <td data-label="Until">{one.expires_at === null ? "—" : <When at={one.expires_at} />}</td>
              <td>
                {approve !== undefined && one.status === "pending" && (
                  <Button isSmall onClick={() => setApproved(one)}>
                    Approve…
                  </Button>
                )}
                {one.status !== "revoked" && (
                  <Button isSmall variant="danger" onClick={() => setRevoked(one)}>
                    Revoke…
                  </Button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {revoked !== null && (
        <Confirm
          title={`Revoke ${revoked.name}`}
          verb="Revoke"
          isDangerous
          onClose={() => setRevoked(null)}
          onConfirm={() => carryOut(() => api.revokeSigner(revoked.signer_id), "Revoked.", reload)}
        >
          It never signs again. Votes that were counted before stay counted.
        </Confirm>
      )}
      {approved !== null && approve !== undefined && (
        <Approve signer={approved} by={approve} reload={reload} onClose={() => setApproved(null)} />
      )}
    </>
  );
}

interface ApproveProps {
  signer: Signer;
  by: Approving;
  reload: () => Promise<void>;
  onClose: () => void;
}

function Approve({ signer, by, reload, onClose }: ApproveProps) {
  const [fingerprint, setFingerprint] = useState("");
  const acting = useActing();
  const approve = async () => {
    if ((await fingerprintOf(signer)) !== fingerprint.trim()) {
      throw new Error(`This is not the fingerprint of that key: ask ${signer.subject} for it again.`);
    }
    await api.approveSigner(signer.signer_id, await signedApproval(signer, by.me, by.passkeys, by.mine));
    say(`The key of ${signer.subject} is approved.`);
    await reload();
  };
  return (
    <Dialog title={`Approve a key of ${signer.subject}`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting.run(approve).then((isDone) => isDone && onClose());
        }}
      >
        <div class="dialog-text">
          You state that this key is {signer.subject}’s, with the role approver, for a year. Your passkey has to be one of the
          configured vote roots.
        </div>
        <Field label="Fingerprint" help={`As ${signer.subject} gave it to you in person or by phone: SHA256:…`}>
          {(ids) => (
            <input {...ids} value={fingerprint} required onInput={(event) => setFingerprint(event.currentTarget.value)} />
          )}
        </Field>
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="primary" isBusy={acting.isBusy} disabled={fingerprint.trim() === ""}>
            Sign the approval
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
