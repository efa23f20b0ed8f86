/** Starting a workflow: a form made from what it takes. */

import { useMemo, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Workflow } from "../api/types";
import { useActing, useLoaded, useTitle } from "../lib/hooks";
import { randomKey } from "../lib/keys";
import { currentQuery, navigate, setQuery } from "../lib/router";
import { draftOf, inputFields, read, type Draft } from "../lib/schema-form";
import { Async, Button, Card, Empty, Field, Page, Problem } from "../ui/parts";
import { SchemaField } from "../ui/schema-field";

export function StartPage() {
  useTitle("Workflows");
  const loaded = useLoaded(() => api.listWorkflows(), []);
  const chosen = currentQuery.value.get("workflow");
  return (
    <Page title="Workflows" lead="What installed packages bring. A run of one is recorded in a session, as a question is.">
      <Async of={loaded} lines={4}>
        {({ workflows }) => {
          const workflow = workflows.find((one) => one.name === chosen) ?? workflows[0];
          if (workflow === undefined) {
            return (
              <Empty icon="runs" title="No workflow is installed">
                A package brings one: <code>flotilla new workflow NAME</code> writes it.
              </Empty>
            );
          }
          return (
            <>
              <Choice workflows={workflows} name={workflow.name} />
              <StartForm key={`${workflow.name} ${workflow.version}`} workflow={workflow} />
            </>
          );
        }}
      </Async>
    </Page>
  );
}

function Choice({ workflows, name }: { workflows: Workflow[]; name: string }) {
  return (
    <div class="filters">
      <label>
        Workflow
        <select value={name} onChange={(event) => setQuery({ workflow: event.currentTarget.value })}>
          {workflows.map((one) => (
            <option key={one.name} value={one.name}>
              {one.name}
            </option>
          ))}
        </select>
      </label>
    </div>
  );
}

function StartForm({ workflow }: { workflow: Workflow }) {
  const { fields, defaults } = useMemo(() => inputFields(workflow.input_schema), []);
  const [draft, setDraft] = useState<Draft>(() => draftOf(fields, defaults));
  const [session, setSession] = useState(currentQuery.value.get("session") ?? "");
  const [isTried, setTried] = useState(false);
  const acting = useActing();
  // Starting the same again after a lost answer must not start a second run.
  const attempt = useRef({ request: "", key: "" });
  const { args, errors } = read(fields, draft, {});
  const start = async () => {
    setTried(true);
    if (Object.keys(errors).length > 0) return;
    await acting.run(async () => {
      const id = session.trim() === "" ? (await api.createSession()).session_id : session.trim();
      setSession(id);
      const request = JSON.stringify([id, args]);
      if (attempt.current.request !== request) attempt.current = { request, key: randomKey() };
      const run = await api.startWorkflow(id, workflow.name, args, attempt.current.key);
      navigate(`/runs/${encodeURIComponent(run.run_id)}`);
    });
  };
  return (
    <Card title={`${workflow.name}, version ${workflow.version}`}>
      {workflow.description !== "" && <p>{workflow.description}</p>}
      {workflow.instances === 0 && <p class="note">No worker serves it at the moment: a run waits for one.</p>}
      <form
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void start();
        }}
      >
        {fields.map((field) => (
          <SchemaField
            key={field.name}
            field={field}
            value={draft[field.name] ?? ""}
            error={isTried ? errors[field.name] : undefined}
            onChange={(value) => setDraft((before) => ({ ...before, [field.name]: value }))}
          />
        ))}
        <Field label="Session" help="Empty opens a new one.">
          {(ids) => <input {...ids} value={session} onInput={(event) => setSession(event.currentTarget.value)} />}
        </Field>
        <Problem error={acting.error} />
        <footer>
          <Button type="submit" variant="primary" icon="send" isBusy={acting.isBusy}>
            Start
          </Button>
        </footer>
      </form>
    </Card>
  );
}
