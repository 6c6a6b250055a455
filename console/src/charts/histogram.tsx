// Histograms of shares: what was expected behind what is there.

import { useEffect, useRef, useState } from "preact/hooks";
import * as format from "../format";

export interface Bin {
  name: string;
  live: number;
  baseline?: number | undefined;
}

/** Returns the width of an element, to draw in its pixels. */
export function useWidth(initial: number): [import("preact").RefObject<HTMLDivElement | null>, number] {
  const host = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(initial);
  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(Math.max(element.clientWidth, 160)));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [host, width];
}

export function Histogram(props: { label: string; bins: Bin[]; height?: number; names?: [string, string] }) {
  const [host, width] = useWidth(560);
  const height = props.height ?? 240;
  const [left, right, top, bottom] = [44, 4, 10, 26];
  const [plotWidth, plotHeight] = [width - left - right, height - top - bottom];
  const most = niceMax(Math.max(0.001, ...props.bins.flatMap((bin) => [bin.live, bin.baseline ?? 0])));
  const step = plotWidth / Math.max(1, props.bins.length);
  const y = (value: number) => top + plotHeight * (1 - value / most);
  const [liveName, baselineName] = props.names ?? ["live", "training data"];
  const every = Math.ceil((Math.max(...props.bins.map((bin) => bin.name.length), 1) * 6.4 + 10) / step);
  return (
    <div ref={host}>
      <svg class="plot-svg" width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`${props.label}. ${spoken(props.bins, liveName, baselineName)}`}>
        {[0, 0.5, 1].map((part) => (
          <g key={part}>
            <line class="grid-line" x1={left} x2={width - right} y1={y(most * part)} y2={y(most * part)} />
            <text x={left - 8} y={y(most * part) + 4} text-anchor="end">
              {format.share(most * part, most < 0.02 ? 1 : 0)}
            </text>
          </g>
        ))}
        {props.bins.map((bin, index) => {
          const x = left + index * step;
          return (
            <g key={bin.name}>
              <title>
                {bin.name}: {format.share(bin.live, 1)} {liveName}
                {bin.baseline === undefined ? "" : `, ${format.share(bin.baseline, 1)} ${baselineName}`}
              </title>
              {bin.baseline !== undefined && (
                <rect class="fill-base" x={x + step * 0.06} width={step * 0.88} y={y(bin.baseline)} height={Math.max(0, plotHeight + top - y(bin.baseline))} rx={2} />
              )}
              <rect class="fill-1" x={x + step * 0.26} width={step * 0.48} y={y(bin.live)} height={Math.max(0, plotHeight + top - y(bin.live))} rx={2} />
              {index % every === 0 && (
                <text x={x + step / 2} y={height - 8} text-anchor="middle">
                  {bin.name}
                </text>
              )}
            </g>
          );
        })}
        <line class="axis-line" x1={left} x2={width - right} y1={top + plotHeight} y2={top + plotHeight} />
      </svg>
      <ul class="legend" aria-hidden="true">
        <li>
          <span class="swatch tone-1" /> {liveName}
        </li>
        {props.bins.some((bin) => bin.baseline !== undefined) && (
          <li>
            <span class="swatch tone-base" /> {baselineName}
          </li>
        )}
      </ul>
    </div>
  );
}

function niceMax(value: number): number {
  for (const step of [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1]) if (value <= step) return step;
  return value;
}

/** The largest differences in words, for those who do not see the bars. */
function spoken(bins: Bin[], liveName: string, baselineName: string): string {
  const difference = (bin: Bin) => Math.abs(bin.live - (bin.baseline ?? 0));
  return [...bins]
    .sort((one, other) => difference(other) - difference(one))
    .slice(0, 3)
    .map((bin) => `${bin.name}: ${format.share(bin.live, 1)} ${liveName}${bin.baseline === undefined ? "" : `, ${format.share(bin.baseline, 1)} ${baselineName}`}`)
    .join("; ");
}
