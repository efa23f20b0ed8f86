/** Editing an action's arguments: a form from its schema, then the difference, then it is sent. */

import { useMemo, useState } from "preact/hooks";
import type { Approval, JsonObject } from "../api/types";
import { differences } from "../lib/json-diff";
import { draftOf, fieldsOf, read, type Draft } from "../lib/schema-form";
import { DiffList } from "../ui/diff";
import { Button, Problem } from "../ui/parts";
import { SchemaField } from "../ui/schema-field";

interface Props {
  approval: Approval;
  isClosed: boolean;
  isBusy: boolean;
  error: unknown;
  onCancel: () => void;
  onSend: (args: JsonObject) => void;
}

export function EditForm({ approval, isClosed, isBusy, error, onCancel, onSend }: Props) {
  const fields = useMemo(
    () => fieldsOf(approval.args_schema ?? null, approval.args, approval.editable_args),
    [approval.content_hash],
  );
  const [draft, setDraft] = useState<Draft>(() => draftOf(fields, approval.args));
  const [isReviewed, setReviewed] = useState(false);
  const { args, errors } = read(fields, draft, approval.args);
  const changes = differences(approval.args, args);
  const isSound = Object.keys(errors).length === 0 && changes.length > 0;
  const change = (name: string, value: string) => {
    setReviewed(false);
    setDraft((before) => ({ ...before, [name]: value }));
  };
  const submit = (event: Event) => {
    event.preventDefault();
    if (!isSound || isClosed) return;
    if (isReviewed) onSend(args);
    else setReviewed(true);
  };
  return (
    <form onSubmit={submit}>
      {fields.map((field) => (
        <SchemaField
          key={field.name}
          field={field}
          value={draft[field.name] ?? ""}
          error={errors[field.name]}
          onChange={(value) => change(field.name, value)}
        />
      ))}
      {isReviewed && (
        <div role="group" aria-label="What you change">
          <h3>What you change</h3>
          <DiffList changes={changes} />
          <p class="faint">The content hash changes with it. Earlier approvals no longer count, and somebody else approves it.</p>
        </div>
      )}
      {isClosed && <p class="note">It was decided or changed meanwhile: close this and look again.</p>}
      <Problem error={error} />
      <footer>
        <Button onClick={onCancel}>Cancel</Button>
        <Button type="submit" variant="primary" isBusy={isBusy} disabled={!isSound || isClosed}>
          {isReviewed ? "Send the edit" : "Review the change"}
        </Button>
      </footer>
    </form>
  );
}
