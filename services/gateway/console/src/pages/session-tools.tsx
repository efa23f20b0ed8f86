/** Fork, roll back, lineage and the proof of a session. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import { ApiError } from "../api/problem";
import type { Verdict } from "../api/types";
import { count, number, whoAsked } from "../lib/format";
import { useActing, useLoaded } from "../lib/hooks";
import { branches } from "../lib/lineage";
import { navigate } from "../lib/router";
import { say } from "../lib/saying";
import { Confirm, Dialog } from "../ui/dialog";
import { Icon } from "../ui/icon";
import { JsonView } from "../ui/json";
import { Button, Card, Facts, Field, Id, Problem } from "../ui/parts";

export function ForkDialog({ session, at, onClose }: { session: string; at: number; onClose: () => void }) {
  const [name, setName] = useState("");
  const acting = useActing();
  const submit = (event: Event) => {
    event.preventDefault();
    void acting.run(async () => {
      const made = await api.fork(session, at, name.trim() === "" ? undefined : name.trim());
      onClose();
      say(`Forked at event ${at}.`);
      navigate(`/sessions/${encodeURIComponent(made.session_id)}`);
    });
  };
  return (
    <Dialog title={`Fork at event ${number(at)}`} onClose={onClose}>
      <form onSubmit={submit}>
        <p class="dialog-text">
          A new session begins with this one's history up to event {number(at)}. This one goes on as it is.
        </p>
        <Field label="Id of the new session" help="Left empty, one is made up.">
          {(ids) => (
            <input
              {...ids}
              value={name}
              maxLength={128}
              pattern="[A-Za-z0-9][A-Za-z0-9._:\-]*"
              title="Letters, digits, and . _ : - after the first"
              onInput={(event) => setName(event.currentTarget.value)}
            />
          )}
        </Field>
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="primary" icon="fork" isBusy={acting.isBusy}>
            Fork
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

interface RollbackProps {
  session: string;
  to: number;
  head: number;
  onClose: () => void;
  onDone: () => void;
}

export function RollbackDialog({ session, to, head, onClose, onDone }: RollbackProps) {
  return (
    <Confirm
      title={`Roll back to event ${number(to)}`}
      verb="Roll back"
      isDangerous
      onClose={onClose}
      onConfirm={async () => {
        const { seq } = await api.rollback(session, to);
        say(`Rolled back to event ${to} by event ${seq}.`);
        onDone();
      }}
    >
      <p>
        The state becomes what it was after event {number(to)}. {count(head - to, "event")} after it no longer{" "}
        {head - to === 1 ? "counts" : "count"}, but {head - to === 1 ? "stays" : "stay"} in the history: nothing is
        deleted.
      </p>
    </Confirm>
  );
}

export function LineageTree({ session }: { session: string }) {
  const loaded = useLoaded(() => api.lineage(session), [session]);
  if (loaded.data === null || loaded.data.sessions.length < 2) return null;
  return (
    <Card title="Lineage">
      <ul class="lineage">
        {branches(loaded.data.sessions).map(({ session: one, depth }) => (
          <li
            key={one.session_id}
            style={{ paddingInlineStart: `${depth * 1.5}rem` }}
            aria-current={one.session_id === session ? "true" : undefined}
          >
            {depth > 0 && <Icon name="fork" />}
            {one.session_id === session ? (
              <strong>
                <Id value={one.session_id} />
              </strong>
            ) : (
              <Id value={one.session_id} href={`/sessions/${encodeURIComponent(one.session_id)}`} />
            )}
            <span class="faint">
              {one.forked_at_seq !== null && depth > 0 && `forked at ${number(one.forked_at_seq)}, `}
              {count(one.head_seq, "event")}, {whoAsked(one.user_id, one.acted_by)}
            </span>
          </li>
        ))}
      </ul>
    </Card>
  );
}

/** Whether the chain holds, and up to where a signed checkpoint vouches for it. */
export function ChainStatus({ session }: { session: string }) {
  const [isOpen, setOpen] = useState(false);
  const loaded = useLoaded(() => api.verify(session), [session]);
  const notYet = loaded.error instanceof ApiError && loaded.error.status === 404;
  const verdict = loaded.data;
  if (loaded.isLoading) return <span class="chain faint">checking the chain…</span>;
  if (verdict === null) {
    return (
      <span class="chain faint">
        {notYet ? "not in the audit log yet" : "the chain could not be checked"}{" "}
        <Button isSmall onClick={() => void loaded.reload()}>
          Check again
        </Button>
      </span>
    );
  }
  return (
    <>
      <button type="button" class={`chain ${verdict.ok ? "good" : "bad"}`} onClick={() => setOpen(true)}>
        <Icon name={verdict.ok ? "shield" : "warn"} />
        {verdict.ok ? `chain verified to ${number(verified(verdict))}` : "the history was changed"}
      </button>
      {isOpen && <ChainDialog verdict={verdict} onClose={() => setOpen(false)} onAgain={loaded.reload} />}
    </>
  );
}

function verified(verdict: Verdict): number {
  return Math.max(0, ...verdict.sessions.map((one) => one.verified_seq));
}

interface ChainProps {
  verdict: Verdict;
  onClose: () => void;
  onAgain: () => Promise<void>;
}

function ChainDialog({ verdict, onClose, onAgain }: ChainProps) {
  const problems = verdict.problems ?? [];
  const acting = useActing();
  return (
    <Dialog title="Proof of the history" onClose={onClose}>
      <Facts
        items={[
          ["Chain", verdict.ok ? "every event is the one that was committed" : "not what was committed"],
          ["Signatures", verdict.signatures_checked ? "checked" : "not checked: the gateway has no public key"],
          ["Kafka's copy", verdict.kafka_checked ? "compared" : "not compared"],
          ["Checkpoints read", number(verdict.checkpoints)],
        ]}
      />
      <table class="list" aria-label="Verified sessions">
        <thead>
          <tr>
            <th scope="col">Session</th>
            <th scope="col" class="num">
              Events
            </th>
            <th scope="col" class="num">
              Verified to
            </th>
            <th scope="col" class="num">
              Signed checkpoint to
            </th>
          </tr>
        </thead>
        <tbody>
          {verdict.sessions.map((one) => (
            <tr key={one.session_id}>
              <th scope="row" data-label="Session">
                <Id value={one.session_id} />
              </th>
              <td class="num" data-label="Events">
                {number(one.events)}
              </td>
              <td class="num" data-label="Verified to">
                {number(one.verified_seq)}
              </td>
              <td class="num" data-label="Signed checkpoint to">
                {one.anchored_seq > 0 ? number(one.anchored_seq) : "the next one"}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {problems.length > 0 && <JsonView value={problems} label="Problems" />}
      <footer>
        <Button isBusy={acting.isBusy} onClick={() => void acting.run(onAgain)}>
          Check again
        </Button>
        <Button variant="primary" onClick={onClose}>
          Close
        </Button>
      </footer>
    </Dialog>
  );
}
