/** A JSON value, indented, as text. Long ones begin folded. */

import { useMemo, useState } from "preact/hooks";
import type { Json } from "../api/types";
import { count } from "../lib/format";
import { Button, Copy } from "./parts";

const SHOWN_LINES = 60;

export function JsonView({ value, label }: { value: Json | undefined; label: string }) {
  const text = useMemo(() => (typeof value === "string" ? value : JSON.stringify(value ?? null, null, 2)), [value]);
  const [isWhole, setWhole] = useState(false);
  const lines = useMemo(() => text.split("\n"), [text]);
  const isLong = lines.length > SHOWN_LINES;
  return (
    <div class="json">
      <pre tabIndex={0} aria-label={label} role="region">
        <code>{isLong && !isWhole ? lines.slice(0, SHOWN_LINES).join("\n") : text}</code>
      </pre>
      <Copy text={text} label={`Copy: ${label}`} />
      {isLong && (
        <Button isSmall onClick={() => setWhole(!isWhole)}>
          {isWhole ? "Show less" : `Show all ${count(lines.length, "line")}`}
        </Button>
      )}
    </div>
  );
}
