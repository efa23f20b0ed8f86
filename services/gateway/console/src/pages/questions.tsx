/** What workflows ask people: the inbox, and a form made from the answer's schema. */

import { useMemo, useState } from "preact/hooks";
import * as api from "../api/calls";
import type { JsonObject, Question, QuestionStatus } from "../api/types";
import { exact, exactObject } from "../lib/exact";
import { countdown, dateTime } from "../lib/format";
import { now, useActing, useLoaded, usePages, useTitle } from "../lib/hooks";
import { currentQuery, setQuery } from "../lib/router";
import { say } from "../lib/saying";
import { draftOf, inputFields, read, type Draft } from "../lib/schema-form";
import { JsonView } from "../ui/json";
import { SchemaField } from "../ui/schema-field";
import { Async, Button, Card, Empty, Facts, Id, Loading, More, Page, Problem, Status, When } from "../ui/parts";

const POLL_MS = 2000;
const STATUSES: QuestionStatus[] = ["open", "answered", "expired", "cancelled"];

export function QuestionsPage() {
  useTitle("Questions");
  const wanted = currentQuery.value.get("status") ?? "open";
  const status = STATUSES.find((one) => one === wanted);
  const loaded = usePages("questions", (cursor) => api.listQuestions(status, cursor), [status], POLL_MS);
  return (
    <Page title="Questions" lead="What workflows ask people. The first answer counts.">
      <div class="filters">
        <label>
          Show
          <select value={status ?? "all"} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
            {[...STATUSES, "all"].map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </label>
      </div>
      <Async of={loaded} lines={8}>
        {({ questions, next_cursor }) => (
          <>
            {questions.length === 0 ? <Empty icon="check" title="No such question" /> : <Inbox questions={questions} />}
            <More cursor={next_cursor} onMore={loaded.more} />
          </>
        )}
      </Async>
    </Page>
  );
}

function Inbox({ questions }: { questions: Question[] }) {
  return (
    <table class="list" aria-label="Questions">
      <thead>
        <tr>
          <th scope="col">Question</th>
          <th scope="col">For</th>
          <th scope="col">Deadline</th>
          <th scope="col">Status</th>
        </tr>
      </thead>
      <tbody>
        {questions.map((one) => (
          <tr key={one.question_id}>
            <th scope="row" data-label="Question">
              <a class="clip" href={`/questions/${encodeURIComponent(one.question_id)}`}>
                {exact(one.question)}
              </a>
            </th>
            <td data-label="For">{audience(one)}</td>
            <td data-label="Deadline">
              <Deadline question={one} />
            </td>
            <td data-label="Status">
              <Status value={one.status} />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function audience(question: Question): string {
  return question.roles.join(" or ") || "who may write to the session";
}

function Deadline({ question }: { question: Question }) {
  if (question.status !== "open") return question.closed_at === null ? <>—</> : <When at={question.closed_at} />;
  if (question.deadline_at === null) return <span class="faint">none</span>;
  return <time dateTime={question.deadline_at}>{countdown(question.deadline_at, now.value).text}</time>;
}

export function QuestionPage({ id }: { id: string }) {
  const loaded = useLoaded(() => api.getQuestion(id), [id], POLL_MS);
  const question = loaded.data;
  useTitle("Question");
  return (
    <Page
      title="Question"
      lead={
        <span>
          <a href="/questions">Questions</a> / <Id value={id} />
        </span>
      }
      aside={question !== null && <Status value={question.status} />}
    >
      <Problem error={loaded.error} onRetry={() => void loaded.reload()} />
      {loaded.isLoading && <Loading lines={6} />}
      {question !== null && (
        <>
          <Card title="What is asked" aside={<Deadline question={question} />}>
            <p class="plain-text">{exact(question.question)}</p>
            <Facts
              items={[
                ["For", audience(question)],
                ["Asked", <time dateTime={question.created_at}>{dateTime(question.created_at)}</time>],
                ["Run", <Id value={question.run_id} href={`/runs/${encodeURIComponent(question.run_id)}`} />],
                question.answered_by !== null && ["Answered by", question.answered_by],
              ]}
            />
          </Card>
          <Card title="Answer">
            {question.status === "open" ? (
              <AnswerForm question={question} reload={loaded.reload} />
            ) : (
              <Given answer={question.answer} status={question.status} />
            )}
          </Card>
        </>
      )}
    </Page>
  );
}

function Given({ answer, status }: { answer: JsonObject | null; status: QuestionStatus }) {
  if (answer === null) return <p class="faint">Nobody answered: it is {status}.</p>;
  return <JsonView value={exactObject(answer)} label="answer" />;
}

function AnswerForm({ question, reload }: { question: Question; reload: () => Promise<void> }) {
  const { fields, defaults } = useMemo(() => inputFields(question.schema), [question.question_id]);
  const [draft, setDraft] = useState<Draft>(() => draftOf(fields, defaults));
  const acting = useActing();
  const { args, errors } = read(fields, draft, {});
  const isSound = Object.keys(errors).length === 0;
  const submit = (event: Event) => {
    event.preventDefault();
    if (!isSound) return;
    void acting.run(async () => {
      await api.answerQuestion(question.question_id, args);
      say("The answer was sent.");
      await reload();
    });
  };
  return (
    <form onSubmit={submit} aria-label="Answer">
      {fields.map((field) => (
        <SchemaField
          key={field.name}
          field={field}
          value={draft[field.name] ?? ""}
          error={draft[field.name] ? errors[field.name] : undefined}
          onChange={(value) => setDraft((before) => ({ ...before, [field.name]: value }))}
        />
      ))}
      <Problem error={acting.error} />
      <footer>
        <Button type="submit" variant="primary" isBusy={acting.isBusy} disabled={!isSound}>
          Answer
        </Button>
      </footer>
    </form>
  );
}
