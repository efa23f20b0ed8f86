/** The drawing itself, in a part of the bundle of its own. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

const MINUTES = [1, 2, 5, 10, 15, 20, 30].map((minutes) => minutes * 60);
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

function minute(seconds: number): string {
  return CLOCK.format(new Date(seconds * 1000));
}

/** Draws into `element` until `signal` aborts; follows its width. */
export function plot(
  element: HTMLElement,
  times: number[],
  values: (number | null)[],
  height: number,
  signal: AbortSignal,
): void {
  // As a colour that is used: the token itself is a pair.
  const colour = (token: string) => {
    element.style.color = `var(${token})`;
    return getComputedStyle(element).color;
  };
  const axis = { stroke: colour("--text-3"), grid: { stroke: colour("--edge"), width: 1 }, ticks: { show: false }, font: "11px sans-serif" };
  const top = Math.max(1, ...values.map((value) => value ?? 0));
  const chart = new uPlot(
    {
      width: element.clientWidth,
      height,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 4, 0, 0],
      scales: { y: { range: [0, top * 1.1] } },
      axes: [
        { ...axis, space: 50, size: 22, incrs: MINUTES, values: (_, splits) => splits.map(minute) },
        { ...axis, size: 40, space: 28, incrs: WHOLE },
      ],
      series: [
        {},
        { stroke: colour("--chart-1"), width: 1.5, fill: colour("--chart-1-soft"), points: { show: false }, spanGaps: false },
      ],
    },
    [times, values],
    element,
  );
  const observer = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height }));
  observer.observe(element);
  signal.addEventListener("abort", () => {
    observer.disconnect();
    chart.destroy();
  });
}
