/** The drawing itself, in a part of the bundle of its own. */

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

/** Draws into `element` until `signal` aborts; follows its width. */
export function plot(
  element: HTMLElement,
  times: number[],
  values: (number | null)[],
  height: number,
  signal: AbortSignal,
): void {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
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
        { ...axis, space: 70, size: 24 },
        { ...axis, size: 38, space: 28 },
      ],
      series: [
        {},
        { stroke: colour("--chart-1"), width: 1.5, fill: `${colour("--chart-1")}22`, points: { show: false }, spanGaps: false },
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
