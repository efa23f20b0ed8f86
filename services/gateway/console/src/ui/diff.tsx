/** What an edit changes, value by value. */

import type { Difference } from "../lib/json-diff";
import { inLine } from "../lib/state-view";

export function DiffList({ changes }: { changes: Difference[] }) {
  return (
    <ul class="diff" aria-label="Changes">
      {changes.map((change) => (
        <li key={change.path} class="changed">
          <strong>{change.path === "" ? "value" : change.path}</strong>
          <del>{change.before === undefined ? "nothing" : inLine(change.before)}</del>
          <ins>{change.after === undefined ? "nothing" : inLine(change.after)}</ins>
        </li>
      ))}
    </ul>
  );
}
