/** What an edit changes in a JSON value, path by path. */

import type { Json, JsonObject } from "../api/types";

export interface Difference {
  /** `json/amount/0`; empty for the whole value. */
  path: string;
  before: Json | undefined;
  after: Json | undefined;
}

/** The differences, in the order of the keys; equal values give none. */
export function differences(before: Json | undefined, after: Json | undefined, path = ""): Difference[] {
  if (isObject(before) && isObject(after)) return ofMembers(before, after, path);
  if (Array.isArray(before) && Array.isArray(after)) {
    return ofMembers(byIndex(before), byIndex(after), path);
  }
  return isEqual(before, after) ? [] : [{ path, before, after }];
}

function byIndex(items: readonly Json[]): JsonObject {
  return Object.fromEntries(items.map((item, at) => [at, item]));
}

function ofMembers(before: JsonObject, after: JsonObject, path: string): Difference[] {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return names.flatMap((name) =>
    differences(own(before, name), own(after, name), path === "" ? name : `${path}/${name}`),
  );
}

/** Whether two JSON values are the same; the order of an object's members does not count. */
export function isEqual(one: Json | undefined, other: Json | undefined): boolean {
  if (isObject(one) && isObject(other)) {
    const names = Object.keys(one);
    return names.length === Object.keys(other).length && names.every((name) => isEqual(one[name], own(other, name)));
  }
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((item, at) => isEqual(item, other[at]));
  }
  return one === other;
}

function own(object: JsonObject, name: string): Json | undefined {
  return Object.hasOwn(object, name) ? object[name] : undefined;
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
