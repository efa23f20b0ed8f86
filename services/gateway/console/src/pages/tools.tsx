/** Tools of MCP servers: read what they say of themselves, allow exactly that, and decide about calls without an answer. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Approval, JsonObject, McpTool, McpToolDefinition } from "../api/types";
import { isAdmin } from "../lib/account";
import { exact, exactValue } from "../lib/exact";
import { dateTime } from "../lib/format";
import { differences } from "../lib/json-diff";
import { useLoaded, usePages, useTitle } from "../lib/hooks";
import { carryOut, say } from "../lib/saying";
import { Confirm, Dialog } from "../ui/dialog";
import { DiffList } from "../ui/diff";
import { JsonView } from "../ui/json";
import { Async, Button, Card, Empty, Facts, Field, More, Page, Status, When } from "../ui/parts";

const POLL_MS = 5000;
/** In the id of an approval to make a call again that gave no answer. */
const AGAIN = ".again.";

export function ToolsPage() {
  useTitle("Tools");
  const loaded = useLoaded(api.listTools, [], POLL_MS);
  const [shown, setShown] = useState<string | null>(null);
  return (
    <Page title="Tools" lead="What MCP servers offer. A tool can be called once an administrator has allowed what it says of itself.">
      <UnknownOutcomes />
      <Async of={loaded} lines={6}>
        {({ tools }) => {
          const open = tools.find((one) => one.name === shown);
          return (
            <>
              {tools.length === 0 ? (
                <Empty icon="tools" title="No MCP server offers a tool">
                  The operators name servers in the file of FLOTILLA_MCP_SERVERS_FILE.
                </Empty>
              ) : (
                <Table tools={tools} onOpen={setShown} />
              )}
              {open !== undefined && <Details tool={open} reload={loaded.reload} onClose={() => setShown(null)} />}
            </>
          );
        }}
      </Async>
    </Page>
  );
}

function Table({ tools, onOpen }: { tools: McpTool[]; onOpen: (name: string) => void }) {
  return (
    <table class="list" aria-label="Tools">
      <thead>
        <tr>
          <th scope="col">Tool</th>
          <th scope="col">Status</th>
          <th scope="col">Least risk</th>
          <th scope="col">Described</th>
          <th scope="col">Allowed by</th>
          <th scope="col">
            <span class="hidden">What can be done</span>
          </th>
        </tr>
      </thead>
      <tbody>
        {tools.map((one) => (
          <tr key={one.name}>
            <th scope="row" data-label="Tool">
              <code class="break">{exact(one.name)}</code>
            </th>
            <td data-label="Status">
              <Status value={one.status} />
            </td>
            <td data-label="Least risk">{one.risk === null ? "—" : <Status value={one.risk} />}</td>
            <td data-label="Described">{one.changed_at === null ? "—" : <When at={one.changed_at} />}</td>
            <td data-label="Allowed by">{one.allowed_by ?? "—"}</td>
            <td>
              <Button isSmall label={`Read ${one.name}`} onClick={() => onOpen(one.name)}>
                Read…
              </Button>
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

interface DetailsProps {
  tool: McpTool;
  reload: () => Promise<void>;
  onClose: () => void;
}

function Details({ tool, reload, onClose }: DetailsProps) {
  const [isRevoking, setRevoking] = useState(false);
  // What is allowed is what was read: a description that changes while the dialog is open is refused by its hash.
  const [read] = useState(tool);
  const shown = read.offered ?? read.allowed;
  const mayAllow = isAdmin.value && read.offered !== null && read.status !== "allowed";
  if (shown === null) return null;
  return (
    <Dialog title={exact(tool.name)} onClose={onClose} isWide>
      <Facts
        items={[
          ["Action", <code class="break">{exact(read.action)}</code>],
          ["Status", <Status value={read.status} />],
          ["Hash", <code class="break">{shown.sha256}</code>],
          read.allowed_at !== null && ["Allowed", `${dateTime(read.allowed_at)}, by ${read.allowed_by ?? "nobody"}`],
        ]}
      />
      {read.status === "changed" && read.allowed !== null && read.offered !== null && (
        <>
          <p class="note warn">Its server describes it otherwise than when it was allowed, so calls are refused.</p>
          <h3>What changed</h3>
          <DiffList changes={differences(described(read.allowed), described(read.offered))} />
        </>
      )}
      <h3>Description</h3>
      <p class="plain-text">{exact(shown.description ?? "None.")}</p>
      <h3>Arguments</h3>
      <JsonView value={exactValue(shown.input_schema)} label="Arguments" />
      <h3>What it says of itself</h3>
      <JsonView value={exactValue(shown.annotations)} label="Annotations" />
      <footer>
        {isAdmin.value && read.allowed !== null && (
          <Button variant="danger" onClick={() => setRevoking(true)}>
            Revoke…
          </Button>
        )}
        {mayAllow && <Allow tool={read} sha256={shown.sha256} reload={reload} onClose={onClose} />}
      </footer>
      {isRevoking && (
        <Confirm
          title={`Revoke ${exact(tool.name)}`}
          verb="Revoke"
          isDangerous
          onClose={() => setRevoking(false)}
          onConfirm={async () => {
            await carryOut(() => api.revokeTool(tool.name), "Revoked.", reload);
            onClose();
          }}
        >
          Calls that have not begun are refused.
        </Confirm>
      )}
    </Dialog>
  );
}

function Allow({ tool, sha256, reload, onClose }: DetailsProps & { sha256: string }) {
  const [isAsking, setAsking] = useState(false);
  return (
    <>
      <Button variant="primary" onClick={() => setAsking(true)}>
        Allow…
      </Button>
      {isAsking && (
        <Confirm
          title={`Allow ${exact(tool.name)}`}
          verb="Allow"
          onClose={() => setAsking(false)}
          onConfirm={async () => {
            await carryOut(() => api.allowTool(tool.name, sha256), "Allowed.", reload);
            onClose();
          }}
        >
          Models read this description as an instruction. Exactly what you have read is allowed; once its server describes it
          otherwise, calls are refused.
        </Confirm>
      )}
    </>
  );
}

/** The members of a definition that people compare, with what can't be seen written out. */
function described({ title, description, input_schema, annotations }: McpToolDefinition): JsonObject {
  return exactValue({ title, description, input_schema, annotations }) as JsonObject;
}

/** Calls that were begun and gave no answer: whether they run again is a vote, as of any action. */
function UnknownOutcomes() {
  const loaded = usePages("approvals", (cursor) => api.listApprovals("pending", cursor), ["pending"], POLL_MS);
  return (
    <Async of={loaded} lines={1}>
      {({ approvals, next_cursor }) => {
        const unknown = approvals.filter((one) => one.action.startsWith("mcp.") && one.approval_id.includes(AGAIN));
        if (unknown.length === 0) return <More cursor={next_cursor} onMore={loaded.more} />;
        return (
          <Card title="Calls without an answer">
            <p>They may have had their effect. Look at the server, then decide whether they run again.</p>
            <Unknown approvals={unknown} />
            <More cursor={next_cursor} onMore={loaded.more} />
          </Card>
        );
      }}
    </Async>
  );
}

function Unknown({ approvals }: { approvals: Approval[] }) {
  const [stated, setStated] = useState<Approval | null>(null);
  return (
    <>
      <table class="list" aria-label="Calls without an answer">
        <thead>
          <tr>
            <th scope="col">Call</th>
            <th scope="col">What is known</th>
            <th scope="col">Decide by</th>
            <th scope="col">
              <span class="hidden">What can be done</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {approvals.map((one) => (
            <tr key={one.approval_id}>
              <th scope="row" data-label="Call">
                <a href={`/approvals/${encodeURIComponent(one.approval_id)}`}>
                  <code class="break">{exact(one.action)}</code>
                </a>
              </th>
              <td data-label="What is known">{exact(one.description)}</td>
              <td data-label="Decide by">
                <When at={one.deadline_at} />
              </td>
              <td>
                {isAdmin.value && (
                  <Button isSmall onClick={() => setStated(one)}>
                    State its outcome…
                  </Button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {stated !== null && <Outcome approval={stated} onClose={() => setStated(null)} />}
    </>
  );
}

/** What an administrator found out about a call, in place of running it again. */
function Outcome({ approval, onClose }: { approval: Approval; onClose: () => void }) {
  const [result, setResult] = useState("");
  return (
    <Confirm
      title={`State the outcome of ${exact(approval.action)}`}
      verb="State"
      needsReason
      onClose={onClose}
      onConfirm={(reason) =>
        api.acceptOutcome(approval.approval_id, result, reason).then(() => say("Stated. Now reject the question."))
      }
    >
      <p>The task goes on with this text as the tool’s answer, once a person rejects the question whether the call runs again.</p>
      <Field label="What the tool would have answered">
        {(ids) => <textarea {...ids} rows={3} value={result} onInput={(event) => setResult(event.currentTarget.value)} />}
      </Field>
    </Confirm>
  );
}
