// Live latency by stage, and where the time of a request goes against what it may take.

import { useState } from "preact/hooks";
import { get, modelPath } from "../request";
import { type Segment, StackedBar } from "../charts/shares";
import { type Line, Series } from "../charts/series";
import * as format from "../format";
import { usePoll } from "../poll";
import { Badge, Card, chosen, Command, Empty, Loaded, VersionChoice } from "../ui";
import type { ModelLive, LiveLatency, VersionLive } from "../wire";

/** Readings that are kept in the page: ten minutes. */
const MAX_READINGS = 300;
/** Models whose readings are kept while other pages are shown. */
const MAX_MODELS = 4;
/** Length of the axis of time while the page has been open for less. */
const SPAN_S = 30;

interface Reading {
  at: number;
  live: ModelLive;
}

// Readings outlive the page, so that its plots go on after a look at another page.
const kept = new Map<string, Reading[]>();

/** Adds a reading, and returns all of the model. */
function keep(model: string, live: ModelLive): Reading[] {
  const before = kept.get(model) ?? [];
  const at = Date.parse(live.at) / 1000;
  const last = before.at(-1);
  if (last && at <= last.at) return before;
  const next = [...before, { at, live }].slice(-MAX_READINGS);
  kept.delete(model);
  kept.set(model, next);
  for (const oldest of kept.keys()) if (kept.size > MAX_MODELS) kept.delete(oldest);
  return next;
}

export function Live({ model }: { model: string }) {
  const live = usePoll(`live/${model}`, (signal) => get<ModelLive>(modelPath(model, "/live"), signal));
  const [choice, setChoice] = useState<number | undefined>(undefined);
  return (
    <Loaded of={live} what="the measurements">
      {(data) => {
        const readings = keep(model, data);
        const version = chosen(data.versions, choice);
        if (!version) {
          return (
            <div class="card">
              <Empty title="No version is loaded">
                <p>Load one on the page of the versions, or look why none could be loaded:</p>
                <Command>leeway check</Command>
              </Empty>
            </div>
          );
        }
        return (
          <>
            <div class="inline">
              <VersionChoice versions={data.versions} value={version.version} onChange={setChoice} />
              <span class={`pulse ${live.error ? "late" : ""}`}>quantiles of the last {format.duration(data.window_s * 1000)}</span>
            </div>
            <VersionPlots key={version.version} version={version} readings={readings} />
          </>
        );
      }}
    </Loaded>
  );
}

interface Point {
  at: number;
  version: VersionLive;
  /** Seconds and values since the reading before. */
  before?: { seconds: number; version: VersionLive };
}

function pointsOf(readings: Reading[], number: number): Point[] {
  const points: Point[] = [];
  for (const { at, live } of readings) {
    const version = live.versions.find((one) => one.version === number);
    if (!version) continue;
    const last = points.at(-1);
    // A version that was loaded again counts from zero.
    const continued = last && version.uptime_s >= last.version.uptime_s;
    points.push({ at, version, ...(continued ? { before: { seconds: at - last.at, version: last.version } } : {}) });
  }
  return points;
}

function sum(counts: Record<string, number>): number {
  return Object.values(counts).reduce((all, one) => all + one, 0);
}

function rateOf(point: Point | undefined, read: (version: VersionLive) => number): number | undefined {
  if (!point?.before || point.before.seconds <= 0) return undefined;
  return Math.max(0, read(point.version) - read(point.before.version)) / point.before.seconds;
}

const FAILED = ["model_error", "server_error", "expired"];

function VersionPlots({ version, readings }: { version: VersionLive; readings: Reading[] }) {
  const points = pointsOf(readings, version.version);
  const last = points.at(-1);
  const times = points.map((point) => point.at);
  const total = version.latency.total;
  const answered = (one: VersionLive) => one.requests.ok ?? 0;
  const failed = (one: VersionLive) => FAILED.reduce((all, name) => all + (one.requests[name] ?? 0), 0);
  const shed = (one: VersionLive) => one.requests.shed ?? 0;
  const quantile = (read: (stage: LiveLatency) => number | null | undefined) => points.map((point) => (point.version.latency.total ? (read(point.version.latency.total) ?? null) : null));
  const rates = (read: (one: VersionLive) => number) => points.map((point) => rateOf(point, read) ?? null);
  const latency: Line[] = [
    { title: "P99", tone: "c2", dash: [2, 3], values: quantile((stage) => stage.p99_ms) },
    { title: "P95", tone: "c4", dash: [7, 4], values: quantile((stage) => stage.p95_ms) },
    { title: "P50", tone: "c1", values: quantile((stage) => stage.p50_ms) },
  ];
  const throughput: Line[] = [
    { title: "answered", tone: "c1", fill: true, values: rates(answered) },
    { title: "refused (shed)", tone: "c2", dash: [7, 4], values: rates(shed) },
    { title: "failed", tone: "c4", dash: [2, 3], values: rates(failed) },
  ];
  const budget = version.budget.total_ms;
  const top = Math.max(0, ...latency.flatMap((line) => line.values.map((value) => value ?? 0)));
  return (
    <>
      <dl class="tiles">
        <Tile title="Answered" value={`${format.rate(rateOf(last, answered))} /s`} sub={`${format.short(answered(version))} since the load`} />
        <Tile title="P99" value={format.ms(total?.p99_ms)} sub={`of a budget of ${format.ms(budget)}`} />
        <Tile title="Refused" value={`${format.rate(rateOf(last, shed))} /s`} sub={`${format.short(shed(version))} since the load`} />
        <Tile title="Failed" value={`${format.rate(rateOf(last, failed))} /s`} sub={`${format.short(failed(version))} since the load`} />
        <Tile title="In flight" value={format.count(version.in_flight)} sub={`${format.count(version.queue_depth)} of them wait`} />
      </dl>
      <Budget version={version} />
      <div class="grid">
        <Card title="Latency" note="of answered requests, from the first byte to the last" class="span-6">
          <Series label="Latency over time" times={times} lines={latency} unit={format.ms} spanS={SPAN_S} marks={top > budget / 4 ? [{ at: budget, title: `budget ${format.ms(budget)}` }] : []} />
        </Card>
        <Card title="Throughput" note="requests per second" class="span-6">
          <Series label="Requests per second over time" times={times} lines={throughput} unit={(value) => `${format.rate(value)} /s`} spanS={SPAN_S} />
        </Card>
        <Batches version={version} />
        <Refusals version={version} />
      </div>
    </>
  );
}

function Tile(props: { title: string; value: string; sub: string }) {
  return (
    <div class="tile">
      <dt>{props.title}</dt>
      <dd>
        {props.value}
        <div class="sub">{props.sub}</div>
      </dd>
    </div>
  );
}

const STAGES: { stage: string; title: string; tone: string; hatched?: boolean; budget?: (budget: VersionLive["budget"]) => number }[] = [
  { stage: "network", title: "Network", tone: "5", budget: (budget) => budget.network_ms },
  { stage: "preprocess", title: "Preprocessing", tone: "3", budget: (budget) => budget.preprocess_ms },
  { stage: "queue", title: "Queue", tone: "2" },
  { stage: "inference", title: "Inference", tone: "1", budget: (budget) => budget.inference_ms },
  { stage: "postprocess", title: "Postprocessing", tone: "4", budget: (budget) => budget.postprocess_ms },
  { stage: "tail", title: "Buffer for the tail", tone: "rest", hatched: true, budget: (budget) => budget.tail_ms },
];

/** Where the time goes: what each stage may take, and what it takes, on one scale. */
function Budget({ version }: { version: VersionLive }) {
  const { budget, latency } = version;
  const allowed: Segment[] = STAGES.filter((one) => one.budget).map((one) => ({
    key: one.stage,
    title: one.title,
    tone: one.tone,
    hatched: one.hatched ?? false,
    value: one.budget!(budget),
    note: format.ms(one.budget!(budget)),
    inside: one.budget!(budget) >= budget.total_ms / 6 ? `${one.title} ${format.ms(one.budget!(budget))}` : format.ms(one.budget!(budget)),
  }));
  const taken = (read: (stage: LiveLatency) => number | null | undefined): Segment[] =>
    STAGES.filter((one) => latency[one.stage]).map((one) => {
      const value = read(latency[one.stage]!) ?? 0;
      return { key: one.stage, title: one.title, tone: one.tone, value, note: format.ms(value), inside: one.title };
    });
  const p99 = taken((stage) => stage.p99_ms);
  const total = latency.total;
  return (
    <Card title={`Where the ${format.ms(budget.total_ms)} go`} note="what each stage may take, and what it takes">
      <div class="stack">
        <div>
          <p class="small muted">May take</p>
          <StackedBar label="Budget by stage" segments={allowed} total={budget.total_ms} />
        </div>
        <div>
          <p class="small muted">
            Takes at P99, on the same scale
            {total?.p99_ms ? ` (all stages together: ${format.ms(total.p99_ms)}, ${format.share(total.p99_ms / budget.total_ms, 1)} of the budget)` : ""}
          </p>
          <StackedBar label="P99 by stage, on the scale of the budget" segments={p99} total={budget.total_ms} />
        </div>
        <div>
          <p class="small muted">The same, enlarged</p>
          <StackedBar label="P99 by stage, enlarged" segments={p99} />
        </div>
      </div>
      <div class="scroll" style={{ marginTop: "14px" }} tabIndex={0} role="region" aria-label="Stages">
        <table class="table stages">
          <thead>
            <tr>
              <th scope="col">Stage</th>
              <th scope="col" class="number">
                May take
              </th>
              <th scope="col" class="number">
                P50
              </th>
              <th scope="col" class="number">
                P95
              </th>
              <th scope="col" class="number">
                P99
              </th>
              <th scope="col" class="number">
                Overruns
              </th>
            </tr>
          </thead>
          <tbody>
            {STAGES.filter((one) => one.stage !== "tail").map((one) => {
              const measured = latency[one.stage];
              const overruns = version.overruns[one.stage] ?? 0;
              const limit = one.budget?.(budget);
              const over = limit !== undefined && (measured?.p99_ms ?? 0) > limit;
              return (
                <tr key={one.stage}>
                  <th scope="row">
                    <span class="inline nowrap" style={{ gap: "8px" }}>
                      <span class={`swatch tone-${one.tone}`} />
                      {one.title}
                    </span>
                  </th>
                  <td class="number">{limit === undefined ? <span class="muted">the rest</span> : format.ms(limit)}</td>
                  <td class="number">{format.ms(measured?.p50_ms)}</td>
                  <td class="number">{format.ms(measured?.p95_ms)}</td>
                  <td class="number">
                    {over ? <Badge tone="warn">{format.ms(measured?.p99_ms)}</Badge> : format.ms(measured?.p99_ms)}
                  </td>
                  <td class="number">{format.count(overruns)}</td>
                </tr>
              );
            })}
            <tr>
              <th scope="row">Total</th>
              <td class="number">{format.ms(budget.total_ms)}</td>
              <td class="number">{format.ms(total?.p50_ms)}</td>
              <td class="number">{format.ms(total?.p95_ms)}</td>
              <td class="number">{format.ms(total?.p99_ms)}</td>
              <td class="number">{format.count(sum(version.expired))} expired</td>
            </tr>
          </tbody>
        </table>
      </div>
    </Card>
  );
}

function Batches({ version }: { version: VersionLive }) {
  const { runs, rows, sizes } = version.batches;
  const largest = sizes.reduce((most, one, index) => (one.runs > 0 ? index : most), 0);
  const shown = sizes.slice(0, Math.max(largest + 1, 3));
  const most = Math.max(1, ...shown.map((one) => one.runs));
  const name = (index: number) => {
    const upto = shown[index]?.upto;
    const from = index === 0 ? 1 : (shown[index - 1]?.upto ?? 0) + 1;
    if (upto === undefined || upto === null) return `from ${from} rows`;
    return upto === from ? `${upto} ${upto === 1 ? "row" : "rows"}` : `${from}–${upto} rows`;
  };
  return (
    <Card title="Batch sizes" note={runs > 0 ? `${format.short(rows)} rows in ${format.short(runs)} runs: ${format.number(rows / runs)} a run` : "rows of a run"} class="span-6">
      {runs === 0 ? (
        <Empty title="No run yet">
          <p>Requests that arrive while the model runs share the next run.</p>
        </Empty>
      ) : (
        <ul class="bars">
          {shown.map((one, index) => (
            <li key={name(index)}>
              <span class="name">{name(index)}</span>
              <span class="track">
                <span class="bar-fill tone-1" style={{ width: `${(one.runs / most) * 100}%` }} />
              </span>
              <span class="number">{format.short(one.runs)}</span>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

const REASONS: Record<string, string> = {
  predicted: "would have been late",
  too_slow: "a run takes longer than the client waits",
  overtaken: "gave way to more urgent requests",
  queue_full: "the queue was full",
  connections: "too many connections",
  body_memory: "no memory for the body",
  shutting_down: "the version was being stopped",
};

function Refusals({ version }: { version: VersionLive }) {
  const sheds = Object.entries(version.shed).filter(([, count]) => count > 0);
  const expired = Object.entries(version.expired).filter(([, count]) => count > 0);
  const other = Object.entries(version.requests).filter(([name, count]) => count > 0 && !["ok", "shed", "expired"].includes(name));
  const all: [string, string, number][] = [
    ...sheds.map(([name, count]): [string, string, number] => ["shed", REASONS[name] ?? format.words(name), count]),
    ...expired.map(([name, count]): [string, string, number] => ["expired", `in the stage ${format.words(name)}`, count]),
    ...other.map(([name, count]): [string, string, number] => [format.words(name), "", count]),
  ];
  const most = Math.max(1, ...all.map(([, , count]) => count));
  return (
    <Card title="Without an answer" note="since the load" class="span-6">
      {all.length === 0 ? (
        <Empty title="Every request was answered">
          <p>Here are the requests that were refused, expired or failed, with the reason.</p>
        </Empty>
      ) : (
        <ul class="bars">
          {all.map(([kind, why, count]) => (
            <li key={kind + why}>
              <span class="name" title={`${kind} ${why}`}>
                {why === "" ? format.capital(kind) : format.capital(why)}
              </span>
              <span class="track">
                <span class={`bar-fill ${kind === "shed" ? "tone-2" : "tone-4"}`} style={{ width: `${(count / most) * 100}%` }} />
              </span>
              <span class="number">{format.short(count)}</span>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}
