/** Privacy: what is asked for and confirmed, legal holds, and for how long what is over is kept. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { ErasurePlan, LegalHold, PrivacyRequest, RetentionPlan, RetentionPolicy } from "../api/types";
import { isAdmin, me } from "../lib/account";
import { number } from "../lib/format";
import { useActing, useLoaded, useTitle } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { Confirm, Dialog } from "../ui/dialog";
import { Async, Button, Card, Empty, Facts, Field, Page, Problem, Status, When } from "../ui/parts";

const POLL_MS = 5000;
const WAITS = "Asked for: further people have to confirm it.";

export function PrivacyPage() {
  useTitle("Privacy");
  const requests = useLoaded(api.listPrivacyRequests, [], POLL_MS);
  if (!isAdmin.value) return <Empty icon="shield" title="For administrators" />;
  return (
    <Page title="Privacy" lead="Erasures, exports and retention, each confirmed by as many further people as the policy says.">
      <Requests loaded={requests} />
      <Holds />
      <Retention reload={requests.reload} />
    </Page>
  );
}

type Asking = "erase" | "export";

function Requests({ loaded }: { loaded: ReturnType<typeof useLoaded<{ requests: PrivacyRequest[] }>> }) {
  const [asking, setAsking] = useState<Asking | null>(null);
  return (
    <Card
      title="Requests"
      aside={
        <div class="row-actions">
          <Button onClick={() => setAsking("export")}>Export a person…</Button>
          <Button variant="danger" onClick={() => setAsking("erase")}>
            Erase a person…
          </Button>
        </div>
      }
    >
      <Async of={loaded}>
        {({ requests }) =>
          requests.length === 0 ? (
            <p class="faint">Nothing was asked for.</p>
          ) : (
            <table class="list" aria-label="Privacy requests">
              <thead>
                <tr>
                  <th scope="col">What</th>
                  <th scope="col">Reason</th>
                  <th scope="col">Asked by</th>
                  <th scope="col">Confirmed by</th>
                  <th scope="col">Status</th>
                  <th scope="col">
                    <span class="hidden">What can be done</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {requests.map((one) => (
                  <Row key={one.request_id} request={one} reload={loaded.reload} />
                ))}
              </tbody>
            </table>
          )
        }
      </Async>
      {asking !== null && <Ask kind={asking} reload={loaded.reload} onClose={() => setAsking(null)} />}
    </Card>
  );
}

function Row({ request, reload }: { request: PrivacyRequest; reload: () => Promise<void> }) {
  const [isConfirming, setConfirming] = useState(false);
  const who = me.value;
  const isMine = request.requested_by === who?.subject;
  const counts = who?.kind === "person" && !isMine && !request.confirmations.includes(who.subject);
  return (
    <tr>
      <th scope="row" data-label="What">
        <div>
          {request.kind} <span class="faint break">{subjectOf(request)}</span>
        </div>
      </th>
      <td data-label="Reason">{request.reason}</td>
      <td data-label="Asked by">
        <div>
          {request.requested_by}
          <div class="faint">
            <When at={request.requested_at} />
          </div>
        </div>
      </td>
      <td data-label="Confirmed by">
        {number(request.confirmations.length)} of {number(request.confirmations_needed)}
        {request.confirmations.length > 0 && <div class="faint">{request.confirmations.join(", ")}</div>}
      </td>
      <td data-label="Status">
        <Status value={statusOf(request)} />
      </td>
      <td>
        {request.confirmed_at === null && counts && (
          <Button isSmall variant={request.kind === "erase" ? "danger" : "primary"} onClick={() => setConfirming(true)}>
            Confirm…
          </Button>
        )}
        {request.confirmed_at !== null && request.kind === "export" && isMine && (
          <a class="button plain small" href={api.exportArchive(request.request_id)} download>
            Download
          </a>
        )}
        {isConfirming && (
          <Confirm
            title={`Confirm: ${request.kind} ${subjectOf(request)}`}
            verb="Confirm"
            isDangerous={request.kind === "erase"}
            onClose={() => setConfirming(false)}
            onConfirm={() => carryOut(() => api.confirmPrivacyRequest(request.request_id), "Confirmed.", reload)}
          >
            <p>
              {request.requested_by} asked for it: {request.reason}
            </p>
            {request.kind === "erase" && <p>With the last confirmation the key is destroyed. Nobody can undo that.</p>}
          </Confirm>
        )}
      </td>
    </tr>
  );
}

interface AskProps {
  kind: Asking;
  reload: () => Promise<void>;
  onClose: () => void;
}

function Ask({ kind, reload, onClose }: AskProps) {
  const [subject, setSubject] = useState("");
  const [reason, setReason] = useState("");
  const [plan, setPlan] = useState<ErasurePlan | null>(null);
  const acting = useActing();
  const body = { subject: subject.trim(), reason: reason.trim() };
  const ask = () => carryOut(() => (kind === "erase" ? api.askErasure(body) : api.askExport(body)), WAITS, reload);
  return (
    <Dialog title={kind === "erase" ? "Erase a person" : "Export a person"} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting.run(ask).then((isDone) => isDone && onClose());
        }}
      >
        <PersonFields subject={subject} reason={reason} onSubject={setSubject} onReason={setReason} />
        {plan !== null && (
          <Facts
            items={[
              ["Encrypted sessions", number(plan.encrypted_sessions)],
              ["Sessions in clear, which stay", number(plan.clear_sessions)],
              ["Runs that end", number(plan.open_runs)],
              ["Tasks, actions and orders that end", number(plan.other_open_work)],
              ["Schedules that are deleted", number(plan.schedules)],
              plan.held_for !== null && ["Legal hold", plan.held_for],
            ]}
          />
        )}
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          {kind === "erase" && (
            <Button
              disabled={body.subject === ""}
              onClick={() => void acting.run(async () => setPlan(await api.planErasure(body.subject)))}
            >
              Show what it reaches
            </Button>
          )}
          <Button
            type="submit"
            variant={kind === "erase" ? "danger" : "primary"}
            isBusy={acting.isBusy}
            disabled={body.subject === "" || body.reason === ""}
          >
            Ask for it
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

interface PersonProps {
  subject: string;
  reason: string;
  onSubject: (text: string) => void;
  onReason: (text: string) => void;
}

function PersonFields({ subject, reason, onSubject, onReason }: PersonProps) {
  return (
    <>
      <Field label="Person" help="The name of their API key. People of an OpenID provider: flotilla privacy --issuer.">
        {(ids) => (
          <input {...ids} value={subject} maxLength={256} required onInput={(event) => onSubject(event.currentTarget.value)} />
        )}
      </Field>
      <Field label="Reason" help="It is recorded in the history: write no personal data into it.">
        {(ids) => (
          <textarea
            {...ids}
            rows={2}
            value={reason}
            maxLength={2000}
            required
            onInput={(event) => onReason(event.currentTarget.value)}
          />
        )}
      </Field>
    </>
  );
}

function Holds() {
  const loaded = useLoaded(api.listHolds, []);
  const [isAdding, setAdding] = useState(false);
  const [removed, setRemoved] = useState<LegalHold | null>(null);
  return (
    <Card title="Legal holds" aside={<Button onClick={() => setAdding(true)}>Add…</Button>}>
      <Async of={loaded} lines={2}>
        {({ holds }) =>
          holds.length === 0 ? (
            <p class="faint">None: erasures and retention are refused for nobody.</p>
          ) : (
            <table class="list" aria-label="Legal holds">
              <thead>
                <tr>
                  <th scope="col">Person</th>
                  <th scope="col">Reason</th>
                  <th scope="col">Added by</th>
                  <th scope="col">Since</th>
                  <th scope="col">
                    <span class="hidden">What can be done</span>
                  </th>
                </tr>
              </thead>
              <tbody>
                {holds.map((one) => (
                  <tr key={one.person}>
                    <th scope="row" data-label="Person">
                      <code class="break">{one.person}</code>
                    </th>
                    <td data-label="Reason">{one.reason}</td>
                    <td data-label="Added by">{one.added_by}</td>
                    <td data-label="Since">
                      <When at={one.added_at} />
                    </td>
                    <td>
                      <Button isSmall variant="danger" label={`Remove the hold of ${one.person}`} onClick={() => setRemoved(one)}>
                        Remove…
                      </Button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          )
        }
      </Async>
      {isAdding && <AddHold reload={loaded.reload} onClose={() => setAdding(false)} />}
      {removed !== null && (
        <Confirm
          title="Remove the legal hold?"
          verb="Remove"
          isDangerous
          onClose={() => setRemoved(null)}
          onConfirm={() => carryOut(() => api.removeHold(removed.person), "The hold is removed.", loaded.reload)}
        >
          <p>Erasures of {removed.person} are possible again, and retention deletes what is over.</p>
        </Confirm>
      )}
    </Card>
  );
}

function AddHold({ reload, onClose }: { reload: () => Promise<void>; onClose: () => void }) {
  const [subject, setSubject] = useState("");
  const [reason, setReason] = useState("");
  const acting = useActing();
  const add = () =>
    carryOut(() => api.addHold({ subject: subject.trim(), reason: reason.trim() }), "The hold is there.", reload);
  return (
    <Dialog title="Add a legal hold" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting.run(add).then((isDone) => isDone && onClose());
        }}
      >
        <PersonFields subject={subject} reason={reason} onSubject={setSubject} onReason={setReason} />
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" variant="primary" isBusy={acting.isBusy} disabled={subject.trim() === "" || reason.trim() === ""}>
            Add
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function Retention({ reload }: { reload: () => Promise<void> }) {
  const loaded = useLoaded(api.listRetention, [], POLL_MS);
  const [changed, setChanged] = useState<RetentionPolicy | null>(null);
  return (
    <Card title="Retention">
      <Async of={loaded}>
        {({ policies }) => (
          <table class="list" aria-label="Retention">
            <thead>
              <tr>
                <th scope="col">Kind</th>
                <th scope="col">What is over is kept</th>
                <th scope="col">Changed</th>
                <th scope="col">
                  <span class="hidden">What can be done</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {policies.map((one) => (
                <tr key={one.kind}>
                  <th scope="row" data-label="Kind">
                    {one.kind.replaceAll("_", " ")}
                  </th>
                  <td data-label="What is over is kept">{one.days === null ? "for good" : `${number(one.days)} days`}</td>
                  <td data-label="Changed">{one.changed_at === null ? "—" : <When at={one.changed_at} />}</td>
                  <td>
                    <Button isSmall label={`Change the retention of ${one.kind}`} onClick={() => setChanged(one)}>
                      Change…
                    </Button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </Async>
      {changed !== null && (
        <ChangeRetention
          policy={changed}
          reload={async () => {
            await Promise.all([loaded.reload(), reload()]);
          }}
          onClose={() => setChanged(null)}
        />
      )}
    </Card>
  );
}

interface ChangeProps {
  policy: RetentionPolicy;
  reload: () => Promise<void>;
  onClose: () => void;
}

function ChangeRetention({ policy, reload, onClose }: ChangeProps) {
  const [days, setDays] = useState(policy.days === null ? "" : String(policy.days));
  const [reason, setReason] = useState("");
  const [plan, setPlan] = useState<RetentionPlan | null>(null);
  const acting = useActing();
  const wanted = days === "" ? null : Number(days);
  const ask = () =>
    carryOut(() => api.askRetention({ kind: policy.kind, days: wanted, reason: reason.trim() }), WAITS, reload);
  return (
    <Dialog title={`Retention of ${policy.kind.replaceAll("_", " ")}`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void acting.run(ask).then((isDone) => isDone && onClose());
        }}
      >
        <Field label="Days" help="Nothing: it is kept for good.">
          {(ids) => (
            <input
              {...ids}
              type="number"
              min={1}
              max={36500}
              value={days}
              onInput={(event) => setDays(event.currentTarget.value)}
            />
          )}
        </Field>
        <Field label="Reason" help="It is recorded in the history.">
          {(ids) => (
            <textarea
              {...ids}
              rows={2}
              value={reason}
              maxLength={2000}
              required
              onInput={(event) => setReason(event.currentTarget.value)}
            />
          )}
        </Field>
        {plan !== null && (
          <p>
            {number(plan.days)} days would delete {number(plan.expired)} now, and leave {number(plan.held)} for legal holds.
          </p>
        )}
        <Problem error={acting.error} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            disabled={wanted === null}
            onClick={() =>
              void acting.run(async () => {
                if (wanted !== null) setPlan(await api.planRetention(policy.kind, wanted));
              })
            }
          >
            Show what it deletes
          </Button>
          <Button type="submit" variant="primary" isBusy={acting.isBusy} disabled={reason.trim() === ""}>
            Ask for it
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}

function subjectOf(request: PrivacyRequest): string {
  if (request.person !== null) return request.person;
  const { kind, days } = request.details as { kind?: string; days?: number | null };
  return `of ${(kind ?? "").replaceAll("_", " ")}: ${typeof days !== "number" ? "for good" : `${number(days)} days`}`;
}

function statusOf(request: PrivacyRequest): string {
  if (request.confirmed_at === null) return "pending";
  return request.kind === "erase" && request.finished_at === null ? "running" : "done";
}
