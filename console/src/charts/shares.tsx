// Stacked bars of shares: the traffic of a model, and the parts of a time.

import type { ComponentChildren } from "preact";
import * as format from "../format";

export interface Segment {
  key: string;
  title: string;
  value: number;
  tone: string;
  hatched?: boolean;
  /** Text in the segment if it is wide enough. */
  inside?: string;
  note?: string;
  href?: string;
}

export function StackedBar(props: { label: string; segments: Segment[]; total?: number; thin?: boolean; mini?: boolean }) {
  const sum = props.segments.reduce((all, one) => all + one.value, 0);
  const total = Math.max(props.total ?? sum, sum);
  const rest = total - sum;
  const text = props.segments.map((one) => `${one.title} ${one.note ?? format.percent((one.value / (total || 1)) * 100)}`).join(", ");
  return (
    <div class={`bar ${props.thin ? "thin" : ""} ${props.mini ? "mini" : ""}`} role="img" aria-label={`${props.label}: ${text || "nothing"}`}>
      {props.segments
        .filter((one) => one.value > 0)
        .map((one) => (
          <div
            key={one.key}
            class={`segment tone-${one.tone} ${one.hatched ? "hatched" : ""}`}
            style={{ flexGrow: one.value, flexBasis: 0 }}
            title={`${one.title}: ${one.note ?? format.percent((one.value / total) * 100)}`}
          >
            {!props.thin && !props.mini && one.value / total > 0.02 && <span>{one.inside ?? one.title}</span>}
          </div>
        ))}
      {rest > 0 && <div class="segment tone-rest" style={{ flexGrow: rest, flexBasis: 0, marginLeft: sum > 0 ? "-2px" : 0 }} />}
    </div>
  );
}

export function Legend(props: { segments: Segment[]; children?: ComponentChildren }) {
  return (
    <ul class="legend">
      {props.segments.map((one) => (
        <li key={one.key}>
          <span class={`swatch segment tone-${one.tone} ${one.hatched ? "hatched" : ""}`} />
          {one.href === undefined ? <span>{one.title}</span> : <a href={one.href}>{one.title}</a>}
          {one.note !== undefined && <span class="muted">{one.note}</span>}
        </li>
      ))}
      {props.children}
    </ul>
  );
}

/** Returns the tone of each version: the stable one has the first, the others the following ones, the newest first. */
export function tones(versions: number[], stable: number | undefined): (version: number) => string {
  const others = [...versions].filter((one) => one !== stable).sort((one, other) => other - one);
  return (version) => (version === stable ? "1" : String((others.indexOf(version) % 4) + 2));
}
