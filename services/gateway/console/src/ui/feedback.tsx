/** Whether an answer was good: a verdict of each person, which may become a question of an evaluation. */

import { useState } from "preact/hooks";
import * as api from "../api/calls";
import { useActing, useLoaded } from "../lib/hooks";
import { say } from "../lib/saying";
import { Button, Problem } from "./parts";

type Verdict = "up" | "down";

export function Feedback({ runId }: { runId: string }) {
  const loaded = useLoaded(() => api.runFeedback(runId), [runId]);
  const acting = useActing();
  const [own, setOwn] = useState<string | null>(null);
  const given = loaded.data?.feedback ?? [];
  const mine = given.find((one) => one.given_by === own)?.verdict;
  const give = (verdict: Verdict) =>
    acting.run(async () => {
      setOwn((await api.giveFeedback(runId, verdict)).given_by);
      say(verdict === "up" ? "Noted as a good answer." : "Noted as a bad answer.");
      await loaded.reload();
    });
  const counted = (verdict: Verdict) => given.filter((one) => one.verdict === verdict).length || "";
  return (
    <div class="feedback" role="group" aria-label="Was this a good answer?">
      <span class="faint">Was this a good answer?</span>
      <Button isSmall variant="quiet" icon="up" pressed={mine === "up"} isBusy={acting.isBusy} onClick={() => void give("up")}>
        Yes {counted("up")}
      </Button>
      <Button isSmall variant="quiet" icon="down" pressed={mine === "down"} isBusy={acting.isBusy} onClick={() => void give("down")}>
        No {counted("down")}
      </Button>
      <Problem error={acting.error} />
    </div>
  );
}
