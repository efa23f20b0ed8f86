/** The control for one argument of a form that was made from a schema. */

import type { FormField } from "../lib/schema-form";
import { Field } from "./parts";

interface Props {
  field: FormField;
  value: string;
  error: string | undefined;
  onChange: (value: string) => void;
}

export function SchemaField({ field, value, error, onChange }: Props) {
  const help = field.isEditable ? (field.help ?? HELP[field.kind]) : "Policy lets nobody edit this.";
  return (
    <Field label={field.label} error={error} {...(help !== undefined && { help })}>
      {(ids) => {
        const shared = { ...ids, disabled: !field.isEditable, required: field.isRequired && field.isEditable };
        if (field.kind === "choice" || field.kind === "boolean") {
          const choices = field.kind === "boolean" ? ["true", "false"] : field.choices;
          return (
            <select {...shared} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
              {!choices.includes(value) && <option value={value}>{value}</option>}
              {choices.map((choice) => (
                <option key={choice} value={choice}>
                  {choice}
                </option>
              ))}
            </select>
          );
        }
        if (field.kind === "number" || field.kind === "integer") {
          return <input {...shared} inputMode="decimal" value={value} onInput={(event) => onChange(event.currentTarget.value)} />;
        }
        return (
          <textarea
            {...shared}
            class={field.kind === "json" ? "mono" : ""}
            rows={Math.min(14, Math.max(2, value.split("\n").length))}
            spellcheck={field.kind !== "json"}
            value={value}
            onInput={(event) => onChange(event.currentTarget.value)}
          />
        );
      }}
    </Field>
  );
}

const HELP: Partial<Record<FormField["kind"], string>> = { json: "JSON", integer: "A whole number", number: "A number" };
