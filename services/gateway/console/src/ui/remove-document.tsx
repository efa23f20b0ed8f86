import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Document } from "../api/types";
import { carryOut } from "../lib/saying";
import { Confirm } from "./dialog";
import { Button } from "./parts";

export function RemoveDocument({ document: one, reload }: { document: Document; reload: () => Promise<void> }) {
  const [isAsking, setAsking] = useState(false);
  return (
    <>
      <Button isSmall variant="danger" label={`Remove ${one.title}`} onClick={() => setAsking(true)}>
        Remove…
      </Button>
      {isAsking && (
        <Confirm
          title="Remove the document?"
          verb="Remove"
          isDangerous
          onClose={() => setAsking(false)}
          onConfirm={() => carryOut(() => api.removeDocument(one.document_id), "The document is removed.", reload)}
        >
          <p>No search finds it any more. Answers that cited it keep what was recorded of it.</p>
        </Confirm>
      )}
    </>
  );
}
