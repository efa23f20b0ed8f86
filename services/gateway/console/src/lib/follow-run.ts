/** Follows a run as long as a component shows it. */

import { useEffect, useState } from "preact/hooks";
import { path } from "../api/client";
import { follow } from "../api/sse";
import type { SessionEvent } from "../api/types";
import { EMPTY, reduce, type RunView } from "./run-view";

export interface Followed {
  view: RunView;
  isConnected: boolean;
  error: unknown;
}

/** The live view of a run; null follows nothing. `onSessionEvent` gets each new event of its session. */
export function useFollowedRun(runId: string | null, onSessionEvent?: (event: SessionEvent) => void): Followed {
  const [followed, setFollowed] = useState<Followed>(START);
  useEffect(() => {
    setFollowed(START);
    if (runId === null) return undefined;
    const stop = new AbortController();
    let view = EMPTY;
    let isConnected = true;
    let frame = 0;
    // Tokens can come faster than frames: they are shown together.
    const show = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setFollowed({ view, isConnected, error: null });
      });
    };
    follow(path("/v1/runs", runId, "events"), {
      signal: stop.signal,
      onEvent: (event) => {
        const before = view;
        view = reduce(view, event);
        if (event.event === "session_event" && view.seq > before.seq) onSessionEvent?.(JSON.parse(event.data) as SessionEvent);
        if (view !== before) show();
        return event.event !== "done";
      },
      onConnected: (connected) => {
        isConnected = connected;
        show();
      },
    }).catch((error: unknown) => setFollowed({ view, isConnected: false, error }));
    return () => {
      stop.abort();
      cancelAnimationFrame(frame);
    };
  }, [runId]);
  return followed;
}

const START: Followed = { view: EMPTY, isConnected: true, error: null };
