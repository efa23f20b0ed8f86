/** A form from a JSON schema: one field per argument, and what a person typed as the value it stands for. */

import type { Json, JsonObject } from "../api/types";
import { isObject } from "./json-diff";

export type FieldKind = "text" | "number" | "integer" | "boolean" | "choice" | "json";

export interface FormField {
  name: string;
  label: string;
  help: string | null;
  kind: FieldKind;
  isRequired: boolean;
  isEditable: boolean;
  choices: string[];
}

export type Draft = Record<string, string>;

export interface Read {
  args: JsonObject;
  /** By field, what is wrong with it. */
  errors: Record<string, string>;
}

/** The fields for an action's arguments: those of its schema, then those that only the arguments have. */
export function fieldsOf(schema: JsonObject | null, args: JsonObject, editable: readonly string[]): FormField[] {
  const properties = schema !== null && isObject(schema.properties) ? schema.properties : {};
  const required = schema !== null && Array.isArray(schema.required) ? schema.required : [];
  const names = [...new Set([...Object.keys(properties), ...Object.keys(args)])];
  return names.map((name) => {
    const property = resolved(schema, Object.hasOwn(properties, name) ? properties[name] : undefined);
    const kind = kindOf(property, Object.hasOwn(args, name) ? args[name] : undefined);
    return {
      name,
      label: textOf(property.title) ?? name,
      help: textOf(property.description),
      kind,
      isRequired: required.includes(name),
      isEditable: editable.includes(name),
      choices: kind === "choice" && Array.isArray(property.enum) ? property.enum.map(String) : [],
    };
  });
}

/** The fields for what a workflow takes, all of them open; its schema may name its root as a definition. */
export function inputFields(schema: JsonObject): { fields: FormField[]; defaults: JsonObject } {
  const root = resolved(schema, schema);
  const properties = isObject(root.properties) ? root.properties : {};
  const defaults = Object.entries(properties).flatMap(([name, property]) =>
    isObject(property) && property.default !== undefined && property.default !== null ? [[name, property.default]] : [],
  );
  return {
    fields: fieldsOf({ ...root, $defs: schema.$defs ?? {} }, {}, Object.keys(properties)),
    defaults: Object.fromEntries(defaults) as JsonObject,
  };
}

function resolved(schema: JsonObject | null, property: Json | undefined): JsonObject {
  if (!isObject(property)) return {};
  const reference = textOf(property.$ref)?.replace("#/$defs/", "");
  const definitions = schema?.$defs;
  if (reference !== undefined && isObject(definitions) && isObject(definitions[reference])) {
    return { ...definitions[reference], ...property };
  }
  return property;
}

function kindOf(property: JsonObject, value: Json | undefined): FieldKind {
  const choices = property.enum;
  if (Array.isArray(choices) && choices.every((choice) => typeof choice === "string")) return "choice";
  switch (property.type) {
    case "string":
      return "text";
    case "integer":
      return "integer";
    case "number":
      return "number";
    case "boolean":
      return "boolean";
    case undefined:
      if (isObject(theOne(property))) return kindOf(theOne(property) as JsonObject, value);
      return property.anyOf === undefined && Object.keys(property).length === 0 ? kindOfValue(value) : "json";
    default:
      return "json";
  }
}

/** Of a type that may also be null, what it is else. */
function theOne(property: JsonObject): Json | undefined {
  const options = Array.isArray(property.anyOf) ? property.anyOf : [];
  const others = options.filter((one) => !isObject(one) || one.type !== "null");
  return others.length === 1 && options.length === 2 ? others[0] : undefined;
}

function kindOfValue(value: Json | undefined): FieldKind {
  if (typeof value === "string") return "text";
  if (typeof value === "boolean") return "boolean";
  if (typeof value === "number") return Number.isInteger(value) ? "integer" : "number";
  return "json";
}

/** What the fields show for some arguments. */
export function draftOf(fields: readonly FormField[], args: JsonObject): Draft {
  return Object.fromEntries(
    fields.map((field) => {
      const value = Object.hasOwn(args, field.name) ? args[field.name] : undefined;
      if (value === undefined) return [field.name, ""];
      return [field.name, typeof value === "string" && field.kind !== "json" ? value : JSON.stringify(value, null, 2)];
    }),
  );
}

/** The arguments that a draft stands for. What may not be edited stays what it was. */
export function read(fields: readonly FormField[], draft: Draft, before: JsonObject): Read {
  // Entries, not assignments: an argument may be called __proto__.
  const args: [string, Json][] = [];
  const errors: Record<string, string> = {};
  for (const field of fields) {
    const had = Object.hasOwn(before, field.name);
    if (!field.isEditable) {
      if (had) args.push([field.name, before[field.name] ?? null]);
      continue;
    }
    const typed = draft[field.name] ?? "";
    // An empty text is a text; an empty number, choice or JSON is not an argument.
    if (typed.trim() === "" && !(field.kind === "text" && (had || field.isRequired))) {
      if (field.isRequired) errors[field.name] = "This is required.";
      continue;
    }
    const value = valueOf(field, typed);
    if (value instanceof Wrong) errors[field.name] = value.message;
    else args.push([field.name, value]);
  }
  return { args: Object.fromEntries(args), errors };
}

class Wrong {
  readonly message: string;
  constructor(message: string) {
    this.message = message;
  }
}

function valueOf(field: FormField, typed: string): Json | Wrong {
  switch (field.kind) {
    case "text":
      return typed;
    case "choice":
      return field.choices.includes(typed) ? typed : new Wrong("Choose one of the list.");
    case "boolean":
      return typed === "true";
    case "integer":
      return /^-?\d+$/.test(typed.trim()) ? Number(typed) : new Wrong("Give a whole number.");
    case "number":
      return Number.isFinite(Number(typed)) ? Number(typed) : new Wrong("Give a number.");
    case "json":
      return parsed(typed);
  }
}

function parsed(typed: string): Json | Wrong {
  try {
    return JSON.parse(typed) as Json;
  } catch (error) {
    return new Wrong(error instanceof SyntaxError ? `This is not JSON: ${error.message}` : "This is not JSON.");
  }
}

function textOf(value: Json | undefined): string | null {
  return typeof value === "string" && value !== "" ? value : null;
}
