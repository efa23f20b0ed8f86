/** Who may read and write a session: shown to those who may change it. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Access, AccessChange, Party } from "../api/types";
import { useActing, useLoaded } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { Confirm } from "../ui/dialog";
import { Badge, Button, Card, Empty, Field, Problem } from "../ui/parts";

const POLL_MS = 10_000;
const RIGHTS = { readers: "reads", writers: "reads and writes" } as const;
type Right = keyof typeof RIGHTS;
type Change = (change: AccessChange, done: string) => Promise<unknown>;

export function SessionAccess({ session }: { session: string }) {
  const loaded = useLoaded(() => api.sessionAccess(session), [session], POLL_MS);
  const acting = useActing();
  const access = loaded.data;
  // Nobody else learns here with whom it is shared.
  if (access?.may_share !== true) return null;
  const handOver: Change = (wanted, done) => carryOut(() => api.changeAccess(session, wanted), done, loaded.reload);
  const change = (wanted: AccessChange, done: string) => acting.run(() => handOver(wanted, done));
  return (
    <Card title="Access" aside={<Visibility access={access} change={change} />}>
      <Owner access={access} handOver={handOver} />
      <Parties access={access} change={change} />
      <AddParty access={access} change={change} isBusy={acting.isBusy} />
      <Problem error={acting.error} />
    </Card>
  );
}

function Visibility({ access, change }: { access: Access; change: Change }) {
  const isPrivate = access.visibility === "private";
  const next = isPrivate ? "tenant" : "private";
  const done = isPrivate ? "Everybody in the tenant reads and writes it now." : "It is private now.";
  return (
    <span class="row-actions">
      <Badge tone={isPrivate ? "neutral" : "warn"}>{isPrivate ? "private" : "open to the tenant"}</Badge>{" "}
      <Button isSmall onClick={() => void change({ visibility: next }, done)}>
        {isPrivate ? "Open to the tenant" : "Make private"}
      </Button>
    </span>
  );
}

function Owner({ access, handOver }: { access: Access; handOver: Change }) {
  const [isOpen, setOpen] = useState(false);
  const [subject, setSubject] = useState("");
  const { owner } = access;
  return (
    <div>
      Owner: <strong>{owner === null ? "nobody" : owner.name}</strong>{" "}
      {owner !== null && <span class="faint">({owner.issuer})</span>}{" "}
      <Button isSmall onClick={() => setOpen(true)}>
        Hand over…
      </Button>
      {isOpen && (
        <Confirm
          title="Hand the session over"
          verb="Hand over"
          isDangerous
          onClose={() => setOpen(false)}
          onConfirm={() =>
            handOver({ owner: { subject: subject.trim(), issuer: issuerOf(access) } }, `It is ${subject.trim()}'s now.`)
          }
        >
          <p>The new owner shares it from then on. {owner === null ? "" : `${owner.name} stays a writer until they change that.`}</p>
          <Field label="New owner">
            {(ids) => (
              <input {...ids} value={subject} required maxLength={256} onInput={(event) => setSubject(event.currentTarget.value)} />
            )}
          </Field>
        </Confirm>
      )}
    </div>
  );
}

/** The issuer of the people and groups that are named here: the owner's; null is the caller's own. */
function issuerOf(access: Access): string | null {
  return access.owner?.issuer ?? null;
}

function Parties({ access, change }: { access: Access; change: Change }) {
  const rows = (["writers", "readers"] as const).flatMap((right) => access[right].map((party) => ({ party, right })));
  if (rows.length === 0) return <Empty icon="user" title="Shared with nobody" />;
  return (
    <table class="list" aria-label="Shared with">
      <thead>
        <tr>
          <th scope="col">Who</th>
          <th scope="col">May</th>
          <th scope="col">
            <span class="hidden">What can be done</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ party, right }) => (
          <tr key={`${right} ${party.kind} ${party.issuer} ${party.name}`}>
            <th scope="row" data-label="Who">
              {shown(party)} <span class="faint">({party.issuer})</span>
            </th>
            <td data-label="May">{RIGHTS[right]}</td>
            <td>
              <Button isSmall label={`Remove ${shown(party)}`} onClick={() => void change({ remove: [party] }, `${shown(party)} has no access any more.`)}>
                Remove
              </Button>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function shown(party: Party): string {
  return party.kind === "group" ? `group ${party.name}` : party.name;
}

interface AddProps {
  access: Access;
  change: Change;
  isBusy: boolean;
}

function AddParty({ access, change, isBusy }: AddProps) {
  const [name, setName] = useState("");
  const [kind, setKind] = useState<Party["kind"]>("user");
  const [right, setRight] = useState<Right>("readers");
  const add = async (event: Event) => {
    event.preventDefault();
    const party = { kind, name: name.trim(), issuer: issuerOf(access) };
    const isDone = await change(right === "readers" ? { add_readers: [party] } : { add_writers: [party] }, `Shared with ${party.name}.`);
    if (isDone === true) setName("");
  };
  return (
    <form class="row-actions" onSubmit={(event) => void add(event)}>
      <Field label="Share with">
        {(ids) => (
          <select {...ids} value={kind} onChange={(event) => setKind(event.currentTarget.value === "group" ? "group" : "user")}>
            <option value="user">a person</option>
            <option value="group">a group</option>
          </select>
        )}
      </Field>
      <Field label="Name">
        {(ids) => <input {...ids} value={name} required maxLength={256} onInput={(event) => setName(event.currentTarget.value)} />}
      </Field>
      <Field label="Who may">
        {(ids) => (
          <select {...ids} value={right} onChange={(event) => setRight(event.currentTarget.value === "writers" ? "writers" : "readers")}>
            <option value="readers">read</option>
            <option value="writers">read and write</option>
          </select>
        )}
      </Field>
      <Button type="submit" icon="user" isBusy={isBusy} disabled={name.trim() === ""}>
        Share
      </Button>
    </form>
  );
}
