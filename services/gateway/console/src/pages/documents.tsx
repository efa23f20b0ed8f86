import { useState } from "preact/hooks";
import * as api from "../api/calls";
import type { Document, Passage as Found } from "../api/types";
import { mayOperate } from "../lib/account";
import { lastPart } from "../lib/format";
import { useLoaded, usePages, useRested, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { oneLine } from "../lib/text";
import { Passage, WholeDocument } from "../ui/answer";
import { DocumentTable } from "../ui/document-table";
import { Icon } from "../ui/icon";
import { Async, Card, Empty, More, Page } from "../ui/parts";
import { Uploads } from "../ui/uploads";
import type { Source } from "../api/types";

const FOUND = 10;

export function DocumentsPage() {
  useTitle("Documents");
  const [open, setOpen] = useState<Document | null>(null);
  const loaded = usePages("documents", api.listDocuments, []);
  return (
    <Page title="Documents" lead="What agents may cite.">
      {mayOperate.value && (
        <Card title="Add documents">
          <Uploads
            to="/v1/documents"
            fieldsOf={(name) => ({ uri: name })}
            onAdded={() => void loaded.reload()}
            help="A file of the same name replaces the one before. Files of a folder are named by their places in it."
          />
        </Card>
      )}
      <SearchCard />
      <Card title="All documents">
        <Async of={loaded} lines={5}>
          {({ documents, next_cursor }) => (
            <>
              {documents.length === 0 ? (
                <Empty icon="documents" title="No document yet">
                  Without documents there is nothing to cite.
                </Empty>
              ) : (
                <DocumentTable
                  label="Documents of the knowledge base"
                  heading="Title"
                  documents={documents}
                  reload={() => loaded.reload()}
                >
                  {(one) => (
                    <>
                      <button type="button" class="link-button" onClick={() => setOpen(one)}>
                        {one.title}
                      </button>
                      <div class="faint break" title={one.uri}>
                        {lastPart(one.uri)}
                      </div>
                    </>
                  )}
                </DocumentTable>
              )}
              <More cursor={next_cursor} onMore={loaded.more} />
            </>
          )}
        </Async>
      </Card>
      {open !== null && <WholeDocument document={open} onClose={() => setOpen(null)} />}
    </Page>
  );
}

function SearchCard() {
  const words = currentQuery.value.get("q") ?? "";
  const rested = useRested(words.trim(), 250);
  const [open, setOpen] = useState<Source | null>(null);
  const loaded = useLoaded(
    () => (rested === "" ? Promise.resolve({ passages: [] }) : api.search(rested, FOUND)),
    [rested],
  );
  return (
    <Card title="Search">
      <form role="search" onSubmit={(event) => event.preventDefault()}>
        <label class="list-search">
          <span class="hidden">Search the documents</span>
          <Icon name="search" />
          <input
            type="search"
            value={words}
            placeholder="What an agent would find"
            onInput={(event) => setQuery({ q: event.currentTarget.value })}
          />
        </label>
      </form>
      {rested !== "" && (
        <Async of={loaded} lines={4}>
          {({ passages }) =>
            passages.length === 0 ? <Empty icon="search" title="No passage matches" /> : <Results passages={passages} onOpen={setOpen} />
          }
        </Async>
      )}
      {open !== null && <Passage source={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}

function Results({ passages, onOpen }: { passages: Found[]; onOpen: (source: Source) => void }) {
  const best = Math.max(...passages.map((one) => one.source.score), Number.EPSILON);
  return (
    <ol class="results" aria-label="Passages, best first">
      {passages.map(({ text, source }, at) => (
        <li key={source.passage_id} class="result">
          <span class="rank" aria-label={`Rank ${at + 1}`}>
            {at + 1}
          </span>
          <div>
            <button type="button" class="link-button" onClick={() => onOpen(source)}>
              {source.title}
            </button>
            <p class="score">
              <meter min={0} max={best} value={source.score} aria-label={`Score ${source.score.toFixed(3)}`} />
              {source.score.toFixed(3)} · {lastPart(source.uri)}
              {source.place !== "" && ` · ${source.place}`}
            </p>
            <p class="plain-text clip-lines">{oneLine(text, 400)}</p>
          </div>
        </li>
      ))}
    </ol>
  );
}
