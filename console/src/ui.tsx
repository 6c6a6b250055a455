// Parts that pages are made of.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { ApiError } from "./request";
import * as format from "./format";
import type { Polled } from "./poll";
import { toast } from "./toast";

export type Tone = "good" | "warn" | "bad" | "accent" | "plain";

const SIGNS: Record<Tone, ComponentChildren> = {
  good: <path d="M3 8.5l3.2 3.2L13 5" />,
  warn: <path d="M8 2.5l6 11H2z M8 7v2.6 M8 11.4v.2" />,
  bad: <path d="M4 4l8 8 M12 4l-8 8" />,
  accent: <path d="M3 8h9 M8.5 4.5L12 8l-3.5 3.5" />,
  plain: <path d="M4 8h8" />,
};

export function Sign({ tone }: { tone: Tone }) {
  return (
    <svg viewBox="0 0 16 16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.9" stroke-linecap="round" stroke-linejoin="round">
      {SIGNS[tone]}
    </svg>
  );
}

/** A state as a sign and a word. */
export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return (
    <span class={`badge ${tone}`}>
      <Sign tone={tone} />
      {children}
    </span>
  );
}

/** A message that stays on the page. */
export function Note({ tone, title, children }: { tone: Tone; title: string; children?: ComponentChildren }) {
  return (
    <div class={`note-box ${tone}`}>
      <Sign tone={tone} />
      <div>
        <p class="strong">{title}</p>
        {children}
      </div>
    </div>
  );
}

export function Card(props: {
  title: string;
  note?: ComponentChildren;
  actions?: ComponentChildren;
  flush?: boolean;
  class?: string;
  children: ComponentChildren;
}) {
  return (
    <section class={`card ${props.class ?? ""}`}>
      <div class="card-head">
        <h2>{props.title}</h2>
        {props.note !== undefined && <div class="note">{props.note}</div>}
        {props.actions}
      </div>
      <div class={`card-body ${props.flush ? "flush" : ""}`}>{props.children}</div>
    </section>
  );
}

export function Empty({ title, children, page }: { title: string; children?: ComponentChildren; /** It is all that the page has. */ page?: boolean }) {
  return (
    <div class="empty">
      {page ? <h1>{title}</h1> : <p class="strong">{title}</p>}
      {children}
    </div>
  );
}

/** A command to copy. */
export function Command({ children }: { children: string }) {
  return (
    <span class="command">
      <code>{children}</code>
      <Copy text={children} what="the command" />
    </span>
  );
}

export function Copy({ text, what }: { text: string; what: string }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      toast(`Copied ${what}`);
    } catch {
      toast(`This browser does not let the page copy: ${text}`);
    }
  };
  return (
    <button type="button" class="button quiet compact icon" onClick={() => void copy()} aria-label={`Copy ${what}`} title={`Copy ${what}`}>
      <svg viewBox="0 0 16 16" width="13" height="13" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6">
        <rect x="5.5" y="5.5" width="8" height="8" rx="1.6" />
        <path d="M3.5 10.5h-1v-8h8v1" />
      </svg>
    </button>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <div class="card loading" role="status">
      <span class="visually-hidden">Loading {what}</span>
      <i />
      <i />
      <i />
    </div>
  );
}

/** An answer that did not come, with what to do. */
export function Problem({ error, what, stale }: { error: ApiError; what: string; stale?: boolean }) {
  const advice =
    error.status === 0
      ? "The page asks again by itself. Check that the server runs, and that this machine reaches it:"
      : error.status === 403
        ? "Configure a token on the server, and sign in with it:"
        : error.status >= 500
          ? "The page asks again by itself. The server's log has the details under the request id."
          : undefined;
  return (
    <div role="alert">
      <Note tone={stale ? "warn" : "bad"} title={stale ? `What is shown is old: ${error.title}` : `${what}: ${error.title}`}>
        <p>{format.capital(error.detail)}.</p>
        {advice !== undefined && <p class="muted">{advice}</p>}
        {error.status === 0 && <Command>leeway status</Command>}
        {error.status === 403 && <Command>LEEWAY_ADMIN__TOKEN=... leeway serve</Command>}
        {error.requestId !== undefined && <p class="muted small mono">request id {error.requestId}</p>}
      </Note>
    </div>
  );
}

/** The data of a poll, or what there is instead of it. */
export function Loaded<T>(props: { of: Polled<T>; what: string; children: (data: T) => ComponentChildren }) {
  const { data, error } = props.of;
  if (data === undefined) return error ? <Problem error={error} what={format.capital(props.what)} /> : <Loading what={props.what} />;
  return (
    <div class="stack">
      {error && <Problem error={error} what={format.capital(props.what)} stale />}
      {props.children(data)}
    </div>
  );
}

/** A choice between a few values. */
export function Segments<T extends string | number>(props: {
  label: string;
  value: T;
  options: { value: T; title: string }[];
  onChange: (value: T) => void;
}) {
  return (
    <div class="segments" role="group" aria-label={props.label}>
      {props.options.map((option) => (
        <button
          key={option.value}
          type="button"
          aria-pressed={option.value === props.value}
          onClick={() => props.onChange(option.value)}
        >
          {option.title}
        </button>
      ))}
    </div>
  );
}

/** The choice of a version, if there are several. */
export function VersionChoice(props: { versions: { version: number; stable?: boolean }[]; value: number; onChange: (version: number) => void }) {
  if (props.versions.length < 2) return null;
  if (props.versions.length > 5) {
    return (
      <label class="inline">
        <span class="muted">Version</span>
        <select value={props.value} onChange={(event) => props.onChange(Number(event.currentTarget.value))}>
          {props.versions.map(({ version }) => (
            <option key={version} value={version}>
              {version}
            </option>
          ))}
        </select>
      </label>
    );
  }
  return (
    <Segments
      label="Version"
      value={props.value}
      options={props.versions.map(({ version }) => ({ value: version, title: `Version ${version}` }))}
      onChange={props.onChange}
    />
  );
}

/** Returns the chosen version if it is there, or else the stable one, or else the first. */
export function chosen<T extends { version: number; stable?: boolean }>(versions: T[], choice: number | undefined): T | undefined {
  return versions.find((one) => one.version === choice) ?? versions.find((one) => one.stable) ?? versions[0];
}

/** A time as its distance from now, which is kept up to date. */
export function Ago({ time }: { time: string | number | null | undefined }) {
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((n) => n + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  if (time === null || time === undefined) return <span>–</span>;
  return (
    <time dateTime={new Date(time).toISOString()} title={format.clock(time)}>
      {format.ago(time)}
    </time>
  );
}

export function Digest({ sha256, what }: { sha256: string; what: string }) {
  return (
    <span class="nowrap">
      <code title={sha256}>{format.digest(sha256)}…</code>
      <Copy text={sha256} what={what} />
    </span>
  );
}
