import { useEffect, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Run, RunSteps } from "../api/types";
import { mayOperate, traceAddress, workflowAddress } from "../lib/account";
import { useFollowedRun } from "../lib/follow-run";
import { dateTime, duration, number, whoAsked } from "../lib/format";
import { now, useLoaded, useTitle } from "../lib/hooks";
import { carryOut } from "../lib/saying";
import { nameOf } from "../lib/run-view";
import { oneLine } from "../lib/text";
import { waterfall, type Bar } from "../lib/waterfall";
import { Confirm } from "../ui/dialog";
import { Icon } from "../ui/icon";
import { JsonView } from "../ui/json";
import { Markdown } from "../ui/markdown";
import { Async, Badge, Button, Card, Copy, Empty, ExternalLink, Facts, Id, Loading, Page, Problem, Status } from "../ui/parts";
import { isActive, Outcome } from "./ask";

const POLL_MS = 1500;

export function RunPage({ id }: { id: string }) {
  const [isOver, setOver] = useState(false);
  const poll = isOver ? undefined : POLL_MS;
  const loaded = useLoaded(() => api.getRun(id), [id], poll);
  const steps = useLoaded(() => api.runSteps(id), [id], poll);
  const run = loaded.data;
  useTitle(run === null ? "Run" : oneLine(nameOf(run), 60));
  useEffect(() => {
    if (run === null || isActive(run)) return;
    setOver(true);
    void steps.reload();
  }, [run?.status]);
  return (
    <Page
      title="Run"
      lead={
        <span>
          <a href="/runs">Runs</a> / <Id value={id} />
        </span>
      }
      aside={run !== null && <Tools run={run} reload={loaded.reload} />}
    >
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.isLoading && <Loading lines={8} />}
      {run !== null && (
        <>
          <Card title={run.input === null ? "Question" : "Input"} aside={<Status value={run.status} />}>
            {run.input === null ? <p class="plain-text">{run.query}</p> : <JsonView value={run.input} label="Input" />}
            <RunFacts run={run} trace={steps.data?.trace_id ?? null} />
          </Card>
          <Card title={run.input === null ? "Answer" : "Output"}>{isActive(run) ? <Live run={run} onDone={loaded.reload} /> : <Outcome run={run} />}</Card>
          <Card title="Steps">
            <Async of={steps} lines={6}>
              {(data) => <Steps data={data} />}
            </Async>
          </Card>
        </>
      )}
    </Page>
  );
}

function Tools({ run, reload }: { run: Run; reload: () => Promise<void> }) {
  const [isAsking, setAsking] = useState(false);
  const workflow = workflowAddress(run.workflow_id);
  return (
    <>
      {workflow !== null && (
        <span class="button plain">
          <ExternalLink href={workflow}>Temporal UI</ExternalLink>
        </span>
      )}
      {mayOperate.value && isActive(run) && (
        <Button variant="danger" onClick={() => setAsking(true)}>
          Cancel the run
        </Button>
      )}
      {isAsking && (
        <Confirm
          title="Cancel the run?"
          verb="Cancel the run"
          isDangerous
          onClose={() => setAsking(false)}
          onConfirm={() => carryOut(() => api.cancelRun(run.run_id), "The run is asked to stop.", reload)}
        >
          <p>Its agents stop, too. What was done so far stays in the session's history.</p>
        </Confirm>
      )}
    </>
  );
}

function RunFacts({ run, trace }: { run: Run; trace: string | null }) {
  const viewer = trace === null ? null : traceAddress(trace);
  const took = run.finished_at === null ? now.value - Date.parse(run.created_at) : Date.parse(run.finished_at) - Date.parse(run.created_at);
  return (
    <Facts
      items={[
        ["Session", <Id value={run.session_id} href={`/sessions/${encodeURIComponent(run.session_id)}`} />],
        ["Asked by", whoAsked(run.user_id, run.acted_by)],
        ["Asked", <time dateTime={run.created_at}>{dateTime(run.created_at)}</time>],
        [run.finished_at === null ? "Running for" : "Took", duration(Math.max(0, took))],
        [
          "Workflow",
          <span>
            {run.workflow === "rag" ? null : `${run.workflow}, `}
            <code class="break">{run.workflow_id}</code>
          </span>,
        ],
        [
          "Trace",
          trace === null ? (
            <span class="faint">none</span>
          ) : viewer === null ? (
            <span>
              <code class="break">{trace}</code> <Copy text={trace} label="Copy the trace id" />
            </span>
          ) : (
            <ExternalLink href={viewer}>{trace}</ExternalLink>
          ),
        ],
      ]}
    />
  );
}

function Live({ run, onDone }: { run: Run; onDone: () => Promise<void> }) {
  const { view, isConnected, error } = useFollowedRun(run.run_id);
  useEffect(() => {
    if (view.status !== null) void onDone();
  }, [view.status]);
  return (
    <>
      <Problem error={error} />
      {!isConnected && <Badge tone="warn">reconnecting…</Badge>}
      {view.text === "" ? <Loading lines={2} label="Waiting for the answer" /> : <Markdown text={view.text} />}
    </>
  );
}

function Steps({ data }: { data: RunSteps }) {
  const { bars, totalMs } = waterfall(data.steps, now.value);
  const tokens = data.steps.reduce((sum, step) => sum + (step.input_tokens ?? 0) + (step.output_tokens ?? 0), 0);
  return (
    <>
      {data.workflow_history === "unavailable" && (
        <p class="note">Temporal does not answer or has forgotten this run: the workflow's own steps are missing.</p>
      )}
      {bars.length === 0 ? (
        <Empty icon="runs" title="No step yet" />
      ) : (
        <>
          <table class="list waterfall-table">
            <caption class="hidden">
              Steps of the run over {duration(totalMs)}, each under the one that it was done for
            </caption>
            <thead>
              <tr>
                <th scope="col">Step</th>
                <th scope="col">Status</th>
                <th scope="col" class="num">
                  Attempt
                </th>
                <th scope="col" class="num">
                  Tokens
                </th>
                <th scope="col" class="num">
                  Took
                </th>
                <th scope="col" class="bar-cell">
                  0 – {duration(totalMs)}
                </th>
              </tr>
            </thead>
            <tbody>
              {bars.map((bar, at) => (
                <StepRow key={at} bar={bar} />
              ))}
            </tbody>
          </table>
          <p class="legend">
            <span class="workflow_step">workflow step</span>
            <span class="delegation">delegation to an agent</span>
            <span class="llm_call">model call</span>
            <span class="action">action</span>
            {tokens > 0 && <strong>{number(tokens)} tokens in all</strong>}
          </p>
        </>
      )}
    </>
  );
}

function StepRow({ bar }: { bar: Bar }) {
  const { step } = bar;
  const isFailed = step.status === "failed" || step.status === "timeout";
  const message = step.error === null ? null : step.error.message;
  return (
    <tr>
      <th scope="row" data-label="Step">
        <div style={{ paddingInlineStart: `${bar.depth * 1.1}rem` }}>
          {bar.label}
          <div class="faint">
            {step.kind === "llm_call" ? step.model : step.agent !== null && step.agent !== bar.label ? `agent ${step.agent}` : null}
          </div>
          {typeof message === "string" && (
            <div class="field-error clip">
              <Icon name="warn" /> {oneLine(message)}
            </div>
          )}
        </div>
      </th>
      <td data-label="Status">
        <Status value={step.status} />
      </td>
      <td data-label="Attempt" class="num">
        {step.attempt}
      </td>
      <td data-label="Tokens" class="num">
        {step.input_tokens === null ? "" : `${number(step.input_tokens)} + ${number(step.output_tokens ?? 0)}`}
      </td>
      <td data-label="Took" class="num">
        {bar.durationMs === null ? "…" : duration(bar.durationMs)}
      </td>
      <td data-label="When" class="bar-cell">
        <span class="bar-track" title={`begins after ${duration(bar.offsetMs)}`}>
          <span
            class={`bar ${step.kind}${isFailed ? " failed" : ""}`}
            style={{ left: `${bar.left * 100}%`, width: `${bar.width * 100}%` }}
          />
        </span>
      </td>
    </tr>
  );
}
