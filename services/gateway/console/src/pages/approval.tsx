import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Approval, Decision, JsonObject, Me, Vote } from "../api/types";
import { me } from "../lib/account";
import { approvalsOf, barredDecision, barredFrom } from "../lib/deciding";
import { exact, exactObject, hasInexactNumber } from "../lib/exact";
import { dateTime } from "../lib/format";
import { now, useActing, useLoaded, useTitle } from "../lib/hooks";
import { differences } from "../lib/json-diff";
import { say } from "../lib/saying";
import { Dialog } from "../ui/dialog";
import { DiffList } from "../ui/diff";
import { Icon } from "../ui/icon";
import { JsonView } from "../ui/json";
import { Badge, Button, Card, Copy, Facts, Field, Id, Loading, Page, Problem, Status, toneOf } from "../ui/parts";
import { signedVote, usablePasskeys } from "../lib/signing";
import { Deadline } from "./approvals";
import { EditForm } from "./approval-edit";

const POLL_MS = 1000;
const ROUNDED =
  "A number here has more digits than a browser holds, and is shown rounded above: read it in the exact text below. " +
  "It can't be edited here; use flotilla approvals edit.";

export function ApprovalPage({ id }: { id: string }) {
  const loaded = useLoaded(() => api.getApproval(id), [id], POLL_MS);
  const approval = loaded.data;
  useTitle(approval === null ? "Approval" : `${approval.action}: ${approval.status}`);
  return (
    <Page
      title={approval === null ? "Approval" : approval.action}
      lead={
        <span>
          <a href="/approvals">Approvals</a> / <Id value={id} />
        </span>
      }
      aside={approval !== null && <Status value={approval.status} />}
    >
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.isLoading && <Loading lines={8} />}
      {approval !== null && <Request approval={approval} reload={loaded.reload} />}
    </Page>
  );
}

function Request({ approval, reload }: { approval: Approval; reload: () => Promise<void> }) {
  useNews(approval);
  return (
    <div class="approval-grid">
      <div>
        <Card title="What will be executed">
          <Arguments args={exactObject(approval.args)} action={exact(approval.action)} />
          {hasInexactNumber(approval.content) && <p class="note warn">{ROUNDED}</p>}
          <details>
            <summary>The exact text that is hashed and executed</summary>
            <pre class="plain-text" data-testid="content">
              {exact(approval.content)}
            </pre>
          </details>
          <p class="hash">
            <span class="faint">Content hash</span>
            <code data-testid="content-hash">{approval.content_hash}</code>
            <Copy text={approval.content_hash} label="Copy the content hash" />
          </p>
        </Card>
        <Card title="Why">
          <p class="plain-text">{exact(approval.description)}</p>
          <Facts
            items={[
              ["Asked for by", approval.requested_by],
              approval.on_behalf_of !== null && ["For the person", approval.on_behalf_of],
              ["Asked for", <time dateTime={approval.created_at}>{dateTime(approval.created_at)}</time>],
              ["Session so far", <Id value={approval.session_id} href={`/sessions/${encodeURIComponent(approval.session_id)}`} />],
              approval.run_id !== null && [
                "Run",
                <Id value={approval.run_id} href={`/runs/${encodeURIComponent(approval.run_id)}`} />,
              ],
            ]}
          />
        </Card>
        <Outcome approval={approval} />
      </div>
      <div>
        <Card title="Decision" aside={<Deadline approval={approval} />}>
          {me.value !== null && <Decide approval={approval} me={me.value} reload={reload} />}
        </Card>
        <Card title="Risk and policy" aside={<Badge tone={toneOf(approval.risk_level)}>{approval.risk_level} risk</Badge>}>
          <ul class="reasons">
            {approval.reasons.map((reason) => (
              <li key={reason}>{reason}</li>
            ))}
          </ul>
          <h3>Policy</h3>
          <Facts
            items={[
              ["Version", <code class="break">{approval.policy_version}</code>],
              ["Who decides", approval.roles.join(" or ")],
              ["Approvals", `${approvalsOf(approval)} of ${approval.quorum}`],
              ["May be edited", approval.editable_args.length === 0 ? "nothing" : approval.editable_args.join(", ")],
            ]}
          />
        </Card>
        <Card title="Votes so far">
          <Votes votes={approval.votes} hash={approval.content_hash} />
        </Card>
      </div>
    </div>
  );
}

/** Says what others did while the page was open. */
function useNews(approval: Approval): void {
  const seen = useRef(approval.votes.length);
  useEffect(() => {
    for (const vote of approval.votes.slice(seen.current)) {
      if (vote.subject !== me.value?.subject) say(`${vote.subject} ${PAST[vote.decision]} this just now.`);
    }
    seen.current = approval.votes.length;
  }, [approval.votes.length]);
}

const PAST: Record<Decision, string> = { approve: "approved", reject: "rejected", edit: "edited" };

function Arguments({ args, action }: { args: JsonObject; action: string }) {
  const entries = Object.entries(args);
  if (entries.length === 0) return <p class="faint">{action} takes no arguments here.</p>;
  return (
    <dl class="args">
      {entries.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            <JsonView value={value} label={name} />
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Votes({ votes, hash }: { votes: Vote[]; hash: string }) {
  if (votes.length === 0) return <p class="faint">Nobody has voted yet.</p>;
  return (
    <ul class="votes">
      {votes.map((vote, at) => (
        <li key={at}>
          <strong>{vote.subject}</strong> <Badge tone={toneOf(vote.decision)}>{PAST[vote.decision]}</Badge>
          {vote.signed && <Badge tone="good">signed</Badge>}
          {!vote.authenticated && <Badge tone="warn">not authenticated</Badge>}
          {vote.decision === "approve" && vote.content_hash !== hash && <span class="faint">of an earlier text</span>}
          {vote.reason !== null && <span class="plain-text">“{vote.reason}”</span>}
        </li>
      ))}
    </ul>
  );
}

interface DecideProps {
  approval: Approval;
  me: Me;
  reload: () => Promise<void>;
}

function Decide({ approval, me: who, reload }: DecideProps) {
  const [seen, setSeen] = useState(approval);
  const [reason, setReason] = useState("");
  const [isEditing, setEditing] = useState(false);
  const acting = useActing();
  const needsSignature = approval.signature === "required";
  const keys = useLoaded(() => (needsSignature ? api.listSigners(who.subject) : Promise.resolve(null)), [needsSignature]);
  const barred = barredFrom(approval, who, now.value);
  const hasChanged = approval.content_hash !== seen.content_hash;
  const needs = (decision: Decision) => approval.reason_required.includes(decision) && reason.trim() === "";
  const barredApprove = barredDecision(approval, who, "approve") ?? (needsSignature ? withoutKey(keys.data) : null);
  const isClosed = barred !== null || hasChanged;

  const signature = async (decision: Decision) => {
    const passkeys = keys.data?.passkeys ?? null;
    if (keys.data === null || passkeys === null) throw new Error("No passkey counts here: use flotilla approvals approve --sign-with.");
    return signedVote(seen, decision, who, passkeys, keys.data.signers);
  };

  const vote = (decision: Decision, args?: JsonObject) =>
    acting.run(async () => {
      try {
        const given = reason.trim();
        const answer = await api.decide(approval.approval_id, {
          decision,
          content_hash: seen.content_hash,
          ...(given !== "" && { reason: given }),
          ...(args !== undefined && { args }),
          ...(needsSignature && decision === "approve" && { signature: await signature(decision) }),
        });
        // One's own edit is not news.
        if (decision === "edit") setSeen({ ...approval, args: args ?? approval.args, content_hash: answer.content_hash });
        say(answer.approval_status === "pending" ? `Counted: ${answer.approvals} of ${answer.quorum}.` : `It is ${answer.approval_status}.`);
        setReason("");
        setEditing(false);
      } finally {
        await reload();
      }
    });

  return (
    <div class="decide">
      {barred !== null && <p class="note">{barred}</p>}
      {hasChanged && barred === null && <Changed before={seen} after={approval} onSeen={() => setSeen(approval)} />}
      <Field
        label="Reason"
        help={
          approval.reason_required.length === 0
            ? "Not needed; it is recorded."
            : `Needed to ${approval.reason_required.join(" or ")}; it is recorded.`
        }
      >
        {(ids) => (
          <textarea
            {...ids}
            rows={3}
            maxLength={2000}
            value={reason}
            disabled={barred !== null}
            onInput={(event) => setReason(event.currentTarget.value)}
          />
        )}
      </Field>
      <div class="decide-buttons">
        <Button
          variant="primary"
          icon="check"
          isBusy={acting.isBusy}
          disabled={isClosed || barredApprove !== null || needs("approve")}
          onClick={() => void vote("approve")}
        >
          {needsSignature ? "Approve and sign" : "Approve"}
        </Button>
        <Button variant="danger" icon="close" disabled={isClosed || acting.isBusy || needs("reject")} onClick={() => void vote("reject")}>
          Reject
        </Button>
        {approval.editable_args.length > 0 && !hasInexactNumber(approval.content) && (
          <Button disabled={isClosed || acting.isBusy} onClick={() => setEditing(true)}>
            Edit…
          </Button>
        )}
      </div>
      {barred === null && barredApprove !== null && <p class="faint">{barredApprove}</p>}
      {!isClosed && needs("reject") && <p class="faint">Say why before you reject.</p>}
      {needsSignature && barred === null && (
        <p class="faint">
          Policy asks for your own signature. <a href="/signers">Signing keys</a>
        </p>
      )}
      <Problem error={keys.error} />
      <Problem error={acting.error} />
      {isEditing && (
        <Dialog title={`Edit ${approval.action}`} onClose={() => setEditing(false)} isWide>
          <EditForm
            approval={approval}
            isClosed={isClosed}
            isBusy={acting.isBusy}
            error={acting.error}
            onCancel={() => setEditing(false)}
            onSend={(args) => void vote("edit", args)}
          />
        </Dialog>
      )}
    </div>
  );
}

/** Why a signed vote can't be made yet; null when it can. */
function withoutKey(keys: Awaited<ReturnType<typeof api.listSigners>> | null): string | null {
  if (keys === null) return "Looking for your signing keys.";
  return usablePasskeys(keys.signers).length === 0 ? "You have no approved passkey: enroll one, or use the command line." : null;
}

/** What somebody else's edit changed: it has to be looked at before one decides on it. */
function Changed({ before, after, onSeen }: { before: Approval; after: Approval; onSeen: () => void }) {
  return (
    <div class="note warn" role="alert">
      <p>
        <Icon name="warn" /> <strong>What will be executed has changed since you opened this.</strong>
      </p>
      <DiffList changes={differences(exactObject(before.args), exactObject(after.args))} />
      <Button onClick={onSeen}>I have seen the change</Button>
    </div>
  );
}

/** What came of it, once it was decided. */
function Outcome({ approval }: { approval: Approval }) {
  const { outcome } = approval;
  if (outcome === null) return null;
  return (
    <Card title="Outcome" aside={<Status value={outcome.status} />}>
      {outcome.finished_at !== null && (
        <Facts items={[["Ended", <time dateTime={outcome.finished_at}>{dateTime(outcome.finished_at)}</time>]]} />
      )}
      {outcome.result !== null && <JsonView value={outcome.result} label="Result" />}
      {outcome.error !== null && <JsonView value={outcome.error} label="Error" />}
    </Card>
  );
}
