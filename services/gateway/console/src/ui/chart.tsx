/** A small chart of one series over the last hour. uPlot comes only with the page that draws. */

import { useEffect, useRef, useState } from "preact/hooks";
import { number } from "../lib/format";
import { useMedia } from "../lib/hooks";
import { theme } from "../lib/theme";

interface Props {
  title: string;
  /** The number above is the sum of the values, not the newest. */
  isSum: boolean;
  /** Unix seconds, ascending. */
  times: number[];
  values: (number | null)[];
}

const HEIGHT = 120;

export function Chart({ title, isSum, times, values }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const isDark = useMedia("(prefers-color-scheme: dark)");
  const [isBroken, setBroken] = useState(false);
  const { value: chosen } = theme;
  const figure = figureOf(values, isSum);

  useEffect(() => {
    const element = box.current;
    if (element === null) return undefined;
    const stop = new AbortController();
    import("./plot").then(
      ({ plot }) => {
        if (!stop.signal.aborted) plot(element, times, values, HEIGHT, stop.signal);
      },
      () => setBroken(true),
    );
    return () => stop.abort();
  }, [times, values, isDark, chosen]);
  return (
    <figure class="figure">
      <figcaption class="figure-title">{title}</figcaption>
      <p class="figure-value">{figure === null ? "—" : number(figure)}</p>
      {isBroken ? <p class="faint">The chart could not be loaded; reload the page.</p> : <div class="chart" ref={box} aria-hidden="true" />}
      <p class="hidden">{described(values)}</p>
    </figure>
  );
}

function figureOf(values: (number | null)[], isSum: boolean): number | null {
  const known = values.filter((value) => value !== null);
  return isSum ? known.reduce((sum, value) => sum + value, 0) : (known.at(-1) ?? null);
}

function described(values: (number | null)[]): string {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return "No samples in the last hour.";
  return `In the last hour between ${number(Math.min(...known))} and ${number(Math.max(...known))}.`;
}
