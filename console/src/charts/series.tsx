// Lines over time, on uPlot.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { colour, onThemeChange } from "../theme";

export interface Line {
  title: string;
  /** Name of a colour of the style sheet. */
  tone: string;
  dash?: number[];
  fill?: boolean;
  width?: number;
  values: (number | null)[];
}

export interface SeriesProps {
  /** What the plot shows, for those who do not see it. */
  label: string;
  /** Seconds since 1970. */
  times: number[];
  lines: Line[];
  /** Horizontal lines: budgets, thresholds. */
  marks?: { at: number; title: string }[];
  unit: (value: number) => string;
  log?: boolean;
  height?: number;
  /** Length of the axis of time, in seconds, while less is known. */
  spanS?: number;
}

const FONT = "11px Inter, system-ui, sans-serif";

export function Series(props: SeriesProps) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const shape = props.lines.map((line) => `${line.title}/${line.tone}`).join("|") + (props.log ? "log" : "");

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const build = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, () => latest.current), data(latest.current), element);
    };
    build();
    const stopTheme = onThemeChange(build);
    const observer = new ResizeObserver(() => {
      const width = element.clientWidth;
      if (width > 0 && plot.current && plot.current.width !== width) plot.current.setSize({ width, height: plot.current.height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      stopTheme();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(data(props));
  }, [props.times, props.lines, props.marks]);

  return (
    <figure>
      <div ref={host} class="plot" role="img" aria-label={`${props.label}. ${spoken(props)}`} style={{ minHeight: `${props.height ?? 220}px` }} />
      <figcaption>
        <ul class="legend" aria-hidden="true">
          {props.lines.map((line) => (
            <li key={line.title}>
              <span
                class={`swatch line ${line.dash ? (line.dash[0]! < 3 ? "dotted" : "dashed") : ""}`}
                style={{ borderColor: `var(--${line.tone})` }}
              />
              <span>{line.title}</span>
              <span class="muted">{last(line, props.unit)}</span>
            </li>
          ))}
        </ul>
      </figcaption>
    </figure>
  );
}

function last(line: Line, unit: (value: number) => string): string {
  const value = line.values.at(-1);
  return value === null || value === undefined ? "–" : unit(value);
}

function spoken(props: SeriesProps): string {
  return `Now: ${props.lines.map((line) => `${line.title} ${last(line, props.unit)}`).join(", ")}`;
}

function data(props: SeriesProps): uPlot.AlignedData {
  return [props.times, ...props.lines.map((line) => line.values)] as uPlot.AlignedData;
}

/** The time of day, with seconds where the marks of the axis are closer than a minute. */
function clock(time: number, stepS: number): string {
  const date = new Date(time * 1000);
  const parts = [date.getHours(), date.getMinutes(), ...(stepS < 60 ? [date.getSeconds()] : [])];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function powersOfTen(_: uPlot, values: number[]): (number | null)[] {
  return values.map((value) => (Math.abs(Math.log10(value) % 1) < 1e-9 ? value : null));
}

function options(element: HTMLElement, props: () => SeriesProps): uPlot.Options {
  const now = props();
  const tone = (name: string) => colour(name, element);
  const [text, grid, strong] = [tone("muted"), tone("line"), tone("text")];
  const axis = { stroke: text, font: FONT, ticks: { show: false }, grid: { stroke: grid, width: 1 } };
  return {
    width: Math.max(element.clientWidth, 200),
    height: now.height ?? 220,
    padding: [12, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: {
        time: true,
        range: (_, low, high) => {
          const span = props().spanS ?? 60;
          const end = Number.isFinite(high) ? high : Date.now() / 1000;
          return [Math.min(Number.isFinite(low) ? low : end, end - span), end];
        },
      },
      y: {
        ...(now.log ? { distr: 3 as const } : {}),
        range: (_, low, high) => {
          const marks = props().marks?.map((mark) => mark.at) ?? [];
          if (props().log) return [Math.min(low || 0.1, 0.1), Math.max(high || 1, ...marks) * 2];
          return [0, Math.max(high || 0, ...marks, 1e-9) * 1.15];
        },
      },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: 26,
        space: 90,
        values: (_, values, __, ___, stepS) => values.map((value) => clock(value, stepS)),
      },
      {
        ...axis,
        size: 62,
        space: 40,
        ...(now.log ? { filter: powersOfTen, grid: { ...axis.grid, filter: powersOfTen } } : {}),
        values: (_, values) => values.map((value) => (value === null ? "" : props().unit(value))),
      },
    ],
    series: [
      {},
      ...now.lines.map(
        (line): uPlot.Series => ({
          label: line.title,
          stroke: tone(line.tone),
          width: line.width ?? 2,
          ...(line.dash ? { dash: line.dash } : {}),
          ...(line.fill ? { fill: `color-mix(in srgb, ${tone(line.tone)} 14%, transparent)` } : {}),
          points: { show: false },
          spanGaps: false,
        }),
      ),
    ],
    hooks: {
      draw: [
        (plot) => {
          const context = plot.ctx;
          for (const mark of props().marks ?? []) {
            const y = Math.round(plot.valToPos(mark.at, "y", true)) + 0.5;
            context.save();
            context.strokeStyle = strong;
            context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
            context.lineWidth = devicePixelRatio;
            context.beginPath();
            context.moveTo(plot.bbox.left, y);
            context.lineTo(plot.bbox.left + plot.bbox.width, y);
            context.stroke();
            context.fillStyle = strong;
            context.font = FONT.replace("11px", `${11 * devicePixelRatio}px`);
            context.textAlign = "right";
            context.fillText(mark.title, plot.bbox.left + plot.bbox.width - 4, y - 5 * devicePixelRatio);
            context.restore();
          }
        },
      ],
    },
  };
}
