// Drift: the features by how far they are from the training data, and the distributions of one laid over each other.

import { useState } from "preact/hooks";
import { get, getOptional, modelPath } from "../request";
import { Histogram } from "../charts/histogram";
import { Series } from "../charts/series";
import * as format from "../format";
import { usePoll } from "../poll";
import { Badge, Card, chosen, Command, Empty, Loaded, Note, Segments, type Tone, VersionChoice } from "../ui";
import type { DriftHistory, DriftMoment, DriftStatus, FeatureDrift, ModelDrift, VersionDrift } from "../wire";

const DRIFT_POLL_MS = 5000;
/** Features that are listed; the ones that drift most come first. */
const MAX_LISTED = 100;

const STATUSES: Record<DriftStatus, { tone: Tone; title: string }> = {
  not_enough_data: { tone: "plain", title: "not enough data" },
  ok: { tone: "good", title: "ok" },
  warning: { tone: "warn", title: "warning" },
  drifted: { tone: "bad", title: "drifted" },
};

const REASONS: Record<string, string> = {
  shares: "More values are missing, unknown or out of range than in the training data.",
  since_last_week: "The last hours differ from the training data and from the same hours one week earlier.",
  time_of_day: "The last hours differ from what the profile says is usual at these hours.",
  whole_days: "The last whole days differ from the training data, or from what the profile says is usual.",
  recent_window: "The recent window differs from the training data. Less than a day of history is known, so it may be the time of day.",
};

const WINDOWS: { value: number; title: string }[] = [
  { value: 0, title: "Default" },
  { value: 300, title: "5 min" },
  { value: 3600, title: "1 h" },
  { value: 86_400, title: "24 h" },
  { value: 604_800, title: "7 d" },
];

export function DriftBadge({ status }: { status: DriftStatus }) {
  const { tone, title } = STATUSES[status];
  return <Badge tone={tone}>{title}</Badge>;
}

interface DriftData {
  drift: ModelDrift;
  history: DriftHistory | undefined;
}

export function Drift({ model }: { model: string }) {
  const [window, setWindow] = useState(0);
  const [choice, setChoice] = useState<number | undefined>(undefined);
  const drift = usePoll(
    `drift/${model}/${window}`,
    async (signal): Promise<DriftData> => {
      const [now, history] = await Promise.all([
        get<ModelDrift>(modelPath(model, `/drift${window > 0 ? `?window_s=${window}` : ""}`), signal),
        getOptional<DriftHistory>(modelPath(model, "/drift/history"), signal),
      ]);
      return { drift: now, history };
    },
    DRIFT_POLL_MS,
  );
  return (
    <>
      <div class="inline">
        {drift.data && <VersionChoice versions={drift.data.drift.versions} value={chosen(drift.data.drift.versions, choice)?.version ?? 0} onChange={setChoice} />}
        <Segments label="Window" value={window} options={WINDOWS} onChange={setWindow} />
      </div>
      <Loaded of={drift} what="the drift">
        {({ drift: data, history }) => {
          const version = chosen(data.versions, choice);
          if (!data.enabled) {
            return (
              <div class="card">
                <Empty title="Monitoring is off">
                  <p>
                    It is turned on by <code>monitoring.enabled</code> in the configuration, or:
                  </p>
                  <Command>LEEWAY_MONITORING__ENABLED=true leeway serve</Command>
                </Empty>
              </div>
            );
          }
          if (!version) {
            return (
              <div class="card">
                <Empty title="No version is loaded" />
              </div>
            );
          }
          return (
            <VersionReport
              key={version.version}
              model={model}
              version={version}
              points={history?.versions.find((one) => one.version === version.version)?.points ?? []}
            />
          );
        }}
      </Loaded>
    </>
  );
}

function VersionReport({ model, version, points }: { model: string; version: VersionDrift; points: DriftMoment[] }) {
  const [picked, setPicked] = useState<string | undefined>(undefined);
  const features = version.features.slice(0, MAX_LISTED);
  const predictions = version.predictions.map((one) => ({ ...one, name: `prediction ${one.name}` }));
  const selected = [...features, ...predictions].find((one) => one.name === picked) ?? features[0] ?? predictions[0];
  return (
    <>
      <Verdict version={version} />
      {version.baseline_rows === undefined || version.baseline_rows === null ? (
        <div class="card">
          <Empty title="The version has no baseline">
            <p>Drift is measured against the distribution of the training data. Store it with the version:</p>
            <Command>{`leeway baseline models/${model}/${version.version} --data train.csv`}</Command>
          </Empty>
        </div>
      ) : !selected ? (
        <div class="card">
          <Empty title="No feature is watched" />
        </div>
      ) : (
        <div class="grid">
          <Card
            title="Features"
            note={`the worst first${version.features.length > features.length ? `; ${features.length} of ${version.features.length}` : ""}`}
            class="span-5"
            flush
          >
            <Ranked features={features} selected={selected?.name} onPick={setPicked} />
            {predictions.length > 0 && <h3>Predictions</h3>}
            <Ranked features={predictions} selected={selected?.name} onPick={setPicked} />
          </Card>
          <Feature feature={selected} class="span-7" />
        </div>
      )}
      <OverTime points={points} />
      {version.not_watched.length > 0 && (
        <Note tone="plain" title="Not watched">
          <p>{version.not_watched.join(", ")}</p>
        </Note>
      )}
    </>
  );
}

/** PSI below which a feature has not drifted by itself. */
const SMALL_PSI = 0.1;

/** The PSI; or, if a share of values has drifted and the rest has not, that share. */
function Amount({ feature }: { feature: FeatureDrift }) {
  const psi = feature.psi_adjusted ?? feature.psi;
  const share = worstShare(feature);
  if (share && (psi === null || psi < SMALL_PSI)) {
    return (
      <>
        {format.share(share.window_share)}
        <span class="visually-hidden"> {SHARES[share.of]}</span>
      </>
    );
  }
  return (
    <>
      <span class="visually-hidden">PSI </span>
      {format.number(psi, 2)}
    </>
  );
}

const SHARES: Record<string, string> = {
  below: "below all training data",
  above: "above all training data",
  missing: "missing",
  other: "of other values than in the training data",
};

function worstShare(feature: FeatureDrift): FeatureDrift["shares"][number] | undefined {
  const grown = (one: FeatureDrift["shares"][number]) => (one.window_share ?? 0) - (one.baseline_share ?? 0);
  return feature.shares.filter((one) => one.status === "drifted" || one.status === "warning").sort((one, other) => grown(other) - grown(one))[0];
}

function Ranked(props: { features: FeatureDrift[]; selected: string | undefined; onPick: (name: string) => void }) {
  if (props.features.length === 0) return null;
  return (
    <ul class="ranked">
      {props.features.map((feature) => (
        <li key={feature.name}>
          <button type="button" aria-pressed={feature.name === props.selected} onClick={() => props.onPick(feature.name)}>
            <span class="name" title={feature.name}>
              {feature.name.replace(/^prediction /, "")}
            </span>
            <DriftBadge status={feature.status} />
            <span class="number">
              <Amount feature={feature} />
            </span>
          </button>
        </li>
      ))}
    </ul>
  );
}

function Verdict({ version }: { version: VersionDrift }) {
  const { verdict } = version;
  const titles: Record<DriftStatus, string> = {
    not_enough_data: "Too few requests for a verdict",
    ok: "No drift: what differs is small, or may be due to chance",
    warning: "Something has changed: look when there is time",
    drifted: "The inputs have drifted: someone has to look",
  };
  return (
    <Note tone={STATUSES[verdict.status].tone} title={titles[verdict.status]}>
      {verdict.reason && <p>{REASONS[verdict.reason] ?? format.words(verdict.reason)}</p>}
      {verdict.features.length > 0 && <p>Most in {verdict.features.join(", ")}.</p>}
      <p class="muted small">
        The window: {format.count(version.rows)} {version.rows === 1 ? "row" : "rows"} in {format.duration(version.window_s * 1000)}
        {version.baseline_rows ? `, compared with ${format.count(version.baseline_rows)} of training data` : ""}.
      </p>
    </Note>
  );
}

function change(feature: FeatureDrift): string {
  const [was, is] = [feature.baseline_summary, feature.window_summary];
  const share = worstShare(feature);
  if (share) {
    return `${format.share(share.window_share, 1)} are ${SHARES[share.of] ?? share.of}; in the training data ${format.share(share.baseline_share, 1)}.`;
  }
  if (was && is) return `The mean was ${format.number(was.mean)} in the training data, and is ${format.number(is.mean)}; the deviation was ${format.number(was.deviation)}, and is ${format.number(is.deviation)}.`;
  return "";
}

function Feature({ feature, class: place }: { feature: FeatureDrift; class: string }) {
  const bins = feature.bins
    .filter((bin) => !["below", "above", "missing", "other"].includes(bin.bin) || bin.baseline_count > 0 || bin.window_count > 0)
    .map((bin) => ({ name: short(bin.bin), live: bin.window_ratio ?? 0, baseline: bin.baseline_ratio ?? 0 }));
  const facts: [string, string, string][] = [
    ["PSI", format.number(feature.psi), "Population stability index"],
    ["PSI⁻", format.number(feature.psi_adjusted), "PSI without what chance adds"],
    ["Jensen–Shannon", format.number(feature.jensen_shannon), "Distance, 0 to 0.83"],
    ["Kolmogorov–Smirnov", format.number(feature.kolmogorov_smirnov), "Largest difference of the cumulative shares"],
    ["Chance", feature.q_value === null || feature.q_value === undefined ? "–" : feature.q_value < 0.0001 ? "< 0.0001" : format.number(feature.q_value, 2), "Rate of false alarms at which it would be one"],
  ];
  const known = facts.filter(([, value]) => value !== "–");
  return (
    <Card title={feature.name} note={<DriftBadge status={feature.status} />} class={place}>
      <div class="stack">
        {change(feature) !== "" && <p>{change(feature)}</p>}
        <Histogram label={`Distribution of ${feature.name}`} bins={bins} />
        <dl class="tiles small" hidden={known.length === 0}>
          {known.map(([name, value, title]) => (
            <div class="tile" key={name} title={title}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </div>
    </Card>
  );
}

function short(name: string): string {
  if (name === "+Inf") return "more";
  const value = Number(name);
  return name.trim() !== "" && Number.isFinite(value) ? `≤ ${format.number(value)}` : name;
}

function OverTime({ points }: { points: DriftMoment[] }) {
  if (points.length < 2) return null;
  const times = points.map((point) => Date.parse(point.at) / 1000);
  const worst = points.at(-1)?.worst.map((one) => `${one.name} ${format.number(one.psi, 2)}`).join(", ");
  return (
    <Card title="Over time" note={worst ? `now most: ${worst}` : "PSI"}>
      <Series
        label="Drift over time"
        times={times}
        spanS={300}
        height={200}
        unit={(value) => format.number(value, 2)}
        marks={[{ at: 0.25, title: "large" }]}
        lines={[
          { title: "worst feature", tone: "c2", values: points.map((point) => point.features?.max_psi ?? null) },
          { title: "mean of the features", tone: "c1", dash: [7, 4], values: points.map((point) => point.features?.mean_psi ?? null) },
          { title: "worst of the predictions", tone: "c4", dash: [2, 3], values: points.map((point) => point.predictions?.max_psi ?? null) },
        ]}
      />
    </Card>
  );
}
