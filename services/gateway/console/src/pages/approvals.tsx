import * as api from "../api/calls";
import type { Approval, ApprovalStatus } from "../api/types";
import { approvalsOf, inOrder } from "../lib/deciding";
import { countdown } from "../lib/format";
import { now, usePages, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { Async, Badge, Empty, More, Page, Status, toneOf, When } from "../ui/parts";

const POLL_MS = 2000;
const STATUSES: ApprovalStatus[] = ["pending", "approved", "rejected", "timeout", "cancelled"];

export function ApprovalsPage() {
  useTitle("Approvals");
  const asked = currentQuery.value.get("status") ?? "pending";
  const status = STATUSES.find((one) => one === asked);
  const limit = status === "pending" ? api.MOST : 100;
  const loaded = usePages("approvals", (cursor) => api.listApprovals(status, cursor, limit), [status], POLL_MS);
  return (
    <Page title="Approvals" lead="Actions that wait for a person's decision, the nearest deadline first.">
      <div class="filters">
        <label>
          Show
          <select value={status ?? "all"} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
            {STATUSES.map((one) => (
              <option key={one} value={one}>
                {one === "timeout" ? "timed out" : one}
              </option>
            ))}
            <option value="all">all</option>
          </select>
        </label>
      </div>
      <Async of={loaded} lines={8}>
        {({ approvals, next_cursor }) => (
          <>
            {approvals.length === 0 ? <None status={status} /> : <Inbox approvals={inOrder(approvals)} />}
            <More cursor={next_cursor} onMore={loaded.more} />
          </>
        )}
      </Async>
    </Page>
  );
}

function None({ status }: { status: ApprovalStatus | undefined }) {
  return status === "pending" ? (
    <Empty icon="check" title="Nothing waits for a decision">
      New requests appear here by themselves.
    </Empty>
  ) : (
    <Empty icon="approvals" title="No such approval" />
  );
}

function Inbox({ approvals }: { approvals: Approval[] }) {
  return (
    <table class="list" aria-label="Approvals">
      <thead>
        <tr>
          <th scope="col">Action</th>
          <th scope="col">Risk</th>
          <th scope="col">Asked for by</th>
          <th scope="col">Votes</th>
          <th scope="col">Deadline</th>
          <th scope="col">Status</th>
        </tr>
      </thead>
      <tbody>
        {approvals.map((one) => (
          <tr key={one.approval_id}>
            <th scope="row" data-label="Action">
              <div>
                <a href={`/approvals/${encodeURIComponent(one.approval_id)}`}>{one.action}</a>
                <div class="faint clip">{one.description}</div>
              </div>
            </th>
            <td data-label="Risk">
              <Badge tone={toneOf(one.risk_level)}>{one.risk_level}</Badge>
            </td>
            <td data-label="Asked for by">
              <span>
                {one.requested_by}
                {one.on_behalf_of !== null && <span class="faint"> for {one.on_behalf_of}</span>}
              </span>
            </td>
            <td data-label="Votes">
              {approvalsOf(one)} of {one.quorum}
            </td>
            <td data-label="Deadline">
              <Deadline approval={one} />
            </td>
            <td data-label="Status">
              <Status value={one.status} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** Counting down while a decision is open; else when it was made. */
export function Deadline({ approval }: { approval: Approval }) {
  if (approval.status !== "pending") {
    return approval.decided_at === null ? <span class="faint">—</span> : <When at={approval.decided_at} />;
  }
  const { text, isOver, isUrgent } = countdown(approval.deadline_at, now.value);
  return (
    <time class={isUrgent ? "deadline urgent" : "deadline"} dateTime={approval.deadline_at} title={new Date(approval.deadline_at).toLocaleString()}>
      {text}
      {!isOver && <span class="faint"> left</span>}
    </time>
  );
}
