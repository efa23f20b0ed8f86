/** An answer with its sources, its confidence, and what that rests on. */

import { useEffect, useRef, useState } from "preact/hooks";
import * as api from "../api/calls";
import { ApiError } from "../api/problem";
import type { Document, RunResult, Source } from "../api/types";
import { count, lastPart, number, percent } from "../lib/format";
import { useLoaded } from "../lib/hooks";
import { safeAddress } from "../lib/markdown";
import { cut, unsupportedIn } from "../lib/text";
import { Dialog } from "./dialog";
import { Icon } from "./icon";
import { Markdown } from "./markdown";
import { ExternalLink, Loading, Problem } from "./parts";

export function Answer({ result, removed = [] }: { result: RunResult; removed?: string[] }) {
  const [open, setOpen] = useState<Source | null>(null);
  const cite = (at: number) => setOpen(result.sources[at - 1] ?? null);
  return (
    <div class="answer">
      <Markdown text={result.answer} onCite={cite} citations={result.sources.length} />
      {result.finish_reason === "length" && (
        <p class="note warn">The answer is cut off: the model reached the longest answer that it may write.</p>
      )}
      {result.finish_reason === "refusal" && (
        <p class="note warn">The model declined to answer; what it wrote is its reason.</p>
      )}
      {result.abstained && (
        <p class="note">The fleet declined to answer: what was found is not likely to answer the question.</p>
      )}
      {result.searched_for !== "" && <p class="faint">Searched for: {result.searched_for}</p>}
      <Sources sources={result.sources} onOpen={setOpen} removed={removed} />
      <Support result={result} />
      <Confidence result={result} />
      {open !== null && <Passage source={open} onClose={() => setOpen(null)} />}
    </div>
  );
}

/** A message of the history, with its sources. */
export function MessageText({ role, content, sources }: { role: string; content: string; sources: Source[] }) {
  const [open, setOpen] = useState<Source | null>(null);
  if (role !== "assistant") return <p class="plain-text">{content}</p>;
  const cite = (at: number) => setOpen(sources[at - 1] ?? null);
  return (
    <>
      <Markdown text={content} onCite={cite} citations={sources.length} />
      <Sources sources={sources} onOpen={setOpen} />
      {open !== null && <Passage source={open} onClose={() => setOpen(null)} />}
    </>
  );
}

interface SourcesProps {
  sources: Source[];
  onOpen: (source: Source) => void;
  /** Ids of documents that are no longer there. */
  removed?: string[];
}

function Sources({ sources, onOpen, removed = [] }: SourcesProps) {
  if (sources.length === 0) return null;
  return (
    <ol class="sources" aria-label="Sources">
      {sources.map((source, at) => (
        <li key={at}>
          <button type="button" class="source" onClick={() => onOpen(source)}>
            <span class="source-number" aria-hidden="true">
              {at + 1}
            </span>
            <span class="source-text">
              <strong>{source.title}</strong>
              <span class="faint">
                {lastPart(source.uri)} · {placeOf(source)}
                {removed.includes(source.document_id) && " · removed since"}
              </span>
            </span>
          </button>
        </li>
      ))}
    </ol>
  );
}

/** Sources of former versions name no place. */
function placeOf({ place, start, end }: Source): string {
  return place || `characters ${number(start)}–${number(end)}`;
}

const BASES = {
  token_logprobs: "from the model's token probabilities",
  retrieval_scores: "from how well the passages match the question",
  calibrated: "the share of answers like this one that were right on judged questions",
};

/** What of the answer its sources do not say. */
function Support({ result }: { result: RunResult }) {
  const doubtful = unsupportedIn(result.answer, result.statements);
  const dropped = result.dropped_citations;
  if (doubtful.length === 0 && dropped.length === 0) return null;
  return (
    <div class="note warn" role="note" aria-label="Support">
      {doubtful.length > 0 && (
        <>
          <p>{count(doubtful.length, "sentence")} of {number(result.statements.length)} not supported by the sources:</p>
          <ul>
            {doubtful.map((text, at) => (
              <li key={at}>{text}</li>
            ))}
          </ul>
        </>
      )}
      {dropped.map((one, at) => (
        <p key={at}>
          A citation of {one.source.title} is dropped, which says nothing of this: {one.statement}
        </p>
      ))}
    </div>
  );
}

function Confidence({ result }: { result: RunResult }) {
  const { confidence, usage } = result;
  const level = confidence >= 0.7 ? "high" : confidence >= 0.4 ? "middling" : "low";
  return (
    <div class="confidence">
      <span class="confidence-label" id="confidence-label">
        Confidence
      </span>
      <meter min={0} max={1} low={0.4} high={0.7} optimum={1} value={confidence} aria-labelledby="confidence-label">
        {percent(confidence)}
      </meter>
      <strong>{percent(confidence)}</strong>
      <span class="faint">
        {level}, {BASES[result.confidence_basis]} · {result.model} · {number(usage.input_tokens)} tokens in,{" "}
        {number(usage.output_tokens)} out{usage.estimated && " (estimated)"}
      </span>
    </div>
  );
}

/** The cited passage within its document. */
export function Passage({ source, onClose }: { source: Source; onClose: () => void }) {
  const loaded = useLoaded(() => api.getDocument(source.document_id), [source.document_id]);
  const isGone = loaded.error instanceof ApiError && loaded.error.status === 404;
  return (
    <Dialog title={source.title} onClose={onClose} isWide>
      <p class="faint">
        <Origin uri={source.uri} /> · {placeOf(source)} · score {source.score.toFixed(2)}
      </p>
      {loaded.data !== null && <Marked text={loaded.data.text} source={source} />}
      {loaded.isLoading && <Loading lines={6} />}
      {isGone && <p>The document is no longer in the knowledge base. What was cited:</p>}
      {loaded.error !== null && !isGone && <Problem error={loaded.error} onRetry={() => void loaded.reload()} />}
      {loaded.error !== null && source.quote !== "" && <blockquote class="plain-text">{source.quote}</blockquote>}
    </Dialog>
  );
}

/** A document from its beginning. */
export function WholeDocument({ document, onClose }: { document: Document; onClose: () => void }) {
  const loaded = useLoaded(() => api.getDocument(document.document_id), [document.document_id]);
  return (
    <Dialog title={document.title} onClose={onClose} isWide>
      <p class="faint">
        <Origin uri={document.uri} />
      </p>
      {loaded.isLoading && <Loading lines={6} />}
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.data !== null && (
        <div class="document-text" tabIndex={0} role="region" aria-label="Text of the document">
          {loaded.data.text}
        </div>
      )}
    </Dialog>
  );
}

function Marked({ text, source }: { text: string; source: Source }) {
  const mark = useRef<HTMLElement>(null);
  const { before, passage, after } = cut(text, source.start, source.end);
  useEffect(() => mark.current?.scrollIntoView({ block: "center" }), [text]);
  return (
    <div class="document-text" tabIndex={0} role="region" aria-label="The document around the cited passage">
      {before}
      <mark ref={mark}>{passage}</mark>
      {after}
    </div>
  );
}

function Origin({ uri }: { uri: string }) {
  if (safeAddress(uri) !== null) return <ExternalLink href={uri}>{uri}</ExternalLink>;
  return (
    <>
      <Icon name="documents" /> <code class="break">{uri}</code>
    </>
  );
}
