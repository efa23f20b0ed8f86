/** Documents of one session: only its questions find them. */

import * as api from "../api/calls";
import type { Document } from "../api/types";
import { mayOperate } from "../lib/account";
import { usePages } from "../lib/hooks";
import { useState } from "preact/hooks";
import { WholeDocument } from "../ui/answer";
import { Async, Card, Empty, More } from "../ui/parts";
import { DocumentTable } from "../ui/document-table";
import { Uploads } from "../ui/uploads";

export function SessionAttachments({ session }: { session: string }) {
  const [open, setOpen] = useState<Document | null>(null);
  const loaded = usePages("documents", (cursor) => api.listAttachments(session, cursor), [session]);
  return (
    <Card title="Attachments">
      {mayOperate.value && (
        <Uploads
          to={api.attachmentsOf(session)}
          fieldsOf={() => ({})}
          onAdded={() => void loaded.reload()}
          help="Only questions of this session find them, and who may read the session reads them."
        />
      )}
      <Async of={loaded} lines={2}>
        {({ documents, next_cursor }) => (
          <>
            {documents.length === 0 ? (
              <Empty icon="documents" title="No attachment" />
            ) : (
              <DocumentTable
                label="Attachments of this session"
                heading="File"
                documents={documents}
                reload={() => loaded.reload()}
              >
                {(one) => (
                  <>
                    <button type="button" class="link-button break" onClick={() => setOpen(one)}>
                      {one.uri.slice(api.attachmentPrefix(session).length)}
                    </button>
                    <div class="faint break">{one.title}</div>
                  </>
                )}
              </DocumentTable>
            )}
            <More cursor={next_cursor} onMore={loaded.more} />
          </>
        )}
      </Async>
      {open !== null && <WholeDocument document={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}
