// The versions of a model with their traffic, and the changes of it.

import { useState } from "preact/hooks";
import { change, modelPath } from "../request";
import { Legend, StackedBar, tones } from "../charts/shares";
import { Confirm, type Signed } from "../dialog";
import * as format from "../format";
import { modelHref, versionHref } from "../route";
import { toast } from "../toast";
import { Ago, Badge, Card, Command, Digest, Empty, Note, Sign } from "../ui";
import type { ChangeOutcome, ModelStatus, Shadow, Shares, VersionStatus } from "../wire";
import { ModelProblems, trafficSegments } from "./models";

type Intent =
  | { kind: "traffic" }
  | { kind: "rollback" }
  | { kind: "promote"; version: number }
  | { kind: "load"; version: number }
  | { kind: "unload"; version: number };

/** Time that a change may take to be in effect on all servers. */
const WAIT_MS = 10_000;

export function Versions({ status, refresh }: { status: ModelStatus; refresh: () => void }) {
  const [intent, setIntent] = useState<Intent | undefined>(undefined);
  const segments = trafficSegments(status);
  const { deployment } = status;
  const back = rollbackTarget(status);
  const shadow = (deployment as { shadow?: Shadow | null }).shadow;
  return (
    <>
      <ModelProblems model={status} />
      <Card
        title="Traffic"
        actions={
          <div class="actions">
            <button type="button" class="button" onClick={() => setIntent({ kind: "traffic" })}>
              Change traffic…
            </button>
            <button
              type="button"
              class="button danger"
              disabled={back === undefined}
              title={back === undefined ? "All requests go to the stable version, and there is none before it" : undefined}
              onClick={() => setIntent({ kind: "rollback" })}
            >
              Roll back…
            </button>
          </div>
        }
      >
        <StackedBar label={`Traffic of ${status.model}`} segments={segments} total={100} />
        <Legend segments={segments} />
        <p class="muted small" style={{ marginTop: "10px" }}>
          Generation {deployment.generation}: {format.done(deployment.action)} by {deployment.by || "someone"} <Ago time={deployment.at} />
          {deployment.reason ? `, “${deployment.reason}”` : ""}
        </p>
        {shadow && (
          <p class="muted small">
            Version {shadow.version} gets copies of {format.percent(shadow.percent)} of the requests: <a href={modelHref(status.model, "compare")}>shadow traffic</a>
          </p>
        )}
      </Card>
      <VersionTable status={status} onIntent={setIntent} />
      {intent && <Change intent={intent} status={status} refresh={refresh} onClose={() => setIntent(undefined)} />}
    </>
  );
}

export function StateBadge({ version }: { version: VersionStatus }) {
  switch (version.state) {
    case "loaded":
      return <Badge tone="good">loaded</Badge>;
    case "loading":
      return <Badge tone="accent">loading: {version.step}</Badge>;
    case "refused":
      return <Badge tone="bad">refused: {format.words(version.fault)}</Badge>;
    default:
      return <Badge tone="plain">not loaded</Badge>;
  }
}

function VersionTable({ status, onIntent }: { status: ModelStatus; onIntent: (intent: Intent) => void }) {
  if (status.versions.length === 0) {
    return (
      <div class="card">
        <Empty title="The model has no versions">
          <p>Add one. Leeway tries it out first, and says what it found:</p>
          <Command>{`leeway add models/${status.model} --onnx model.onnx`}</Command>
        </Empty>
      </div>
    );
  }
  const tone = tones(
    status.versions.map((one) => one.version),
    status.deployment.stable,
  );
  return (
    <Card title="Versions" note="the newest first" flush>
      <table class="table cards">
        <thead>
          <tr>
            <th scope="col">Version</th>
            <th scope="col">State</th>
            <th scope="col" class="number">
              Traffic
            </th>
            <th scope="col">Evaluation</th>
            <th scope="col">Trained</th>
            <th scope="col">Digest</th>
            <th scope="col">
              <span class="visually-hidden">Changes</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {status.versions.map((version) => (
            <tr key={version.version}>
              <th scope="row">
                <span class="inline nowrap" style={{ gap: "8px" }}>
                  <span class={`swatch ${version.traffic_percent > 0 ? `tone-${tone(version.version)}` : "tone-rest"}`} />
                  <a href={versionHref(status.model, version.version)}>Version {version.version}</a>
                  {version.stable && <Badge tone="accent">stable</Badge>}
                </span>
                {version.manifest?.description && <div class="small muted">{version.manifest.description}</div>}
              </th>
              <td data-label="State">
                <StateBadge version={version} />
                {version.state === "refused" && <div class="small">{version.problem}</div>}
                {version.altered && <div class="small">{version.altered}</div>}
                {version.reload_problem && <div class="small">{version.reload_problem}</div>}
              </td>
              <td data-label="Traffic" class="number">
                {format.percent(version.traffic_percent)}
              </td>
              <td data-label="Evaluation">{metrics(version) || <span class="muted">–</span>}</td>
              <td data-label="Trained" class="nowrap">
                {version.manifest?.trained_at ?? <span class="muted">–</span>}
              </td>
              <td data-label="Digest">{version.sha256 ? <Digest sha256={version.sha256} what={`the digest of version ${version.version}`} /> : "–"}</td>
              <td>
                <RowActions version={version} onIntent={onIntent} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Card>
  );
}

function RowActions({ version, onIntent }: { version: VersionStatus; onIntent: (intent: Intent) => void }) {
  const wholly = version.stable && version.traffic_percent === 100;
  const number = version.version;
  return (
    <div class="row-actions">
      {!wholly && version.state !== "refused" && (
        <button type="button" class="button compact" onClick={() => onIntent({ kind: "promote", version: number })}>
          Promote…<span class="visually-hidden"> version {number}</span>
        </button>
      )}
      {version.state === "loaded" && version.traffic_percent === 0 && !version.stable && (
        <button type="button" class="button compact" onClick={() => onIntent({ kind: "unload", version: number })}>
          Unload…<span class="visually-hidden"> version {number}</span>
        </button>
      )}
      {(version.state === "available" || version.state === "refused") && (
        <button type="button" class="button compact" onClick={() => onIntent({ kind: "load", version: number })}>
          Load…<span class="visually-hidden"> version {number}</span>
        </button>
      )}
    </div>
  );
}

function metrics(version: VersionStatus): string {
  const values = Object.entries(version.manifest?.metrics ?? {});
  return values
    .slice(0, 3)
    .map(([name, value]) => `${name} ${format.number(value as number, 4)}`)
    .join(", ");
}

/** Returns the version that a rollback gives all requests to. */
function rollbackTarget({ deployment }: ModelStatus): number | undefined {
  const shares = deployment.traffic as Shares;
  return (shares[deployment.stable] ?? 0) === 100 ? deployment.rollback_path.at(-1) : deployment.stable;
}

function said(outcome: ChangeOutcome, model: string): void {
  const after = format.split(outcome.deployment.traffic as Shares);
  const lagging = outcome.lagging?.length ? `; not yet on ${outcome.lagging.map((one) => one.name).join(", ")}` : "";
  toast(
    outcome.changed
      ? `${model}: ${format.split(outcome.before as Shares)} → ${after}, generation ${outcome.deployment.generation}${lagging}`
      : `${model}: nothing to change, it was ${after} already`,
  );
}

function Change(props: { intent: Intent; status: ModelStatus; refresh: () => void; onClose: () => void }) {
  const { intent, onClose } = props;
  // What was shown when the dialog opened: the change is refused if someone else was faster.
  const [status] = useState(props.status);
  const common = (signed: Signed) => ({ ...signed, if_generation: status.deployment.generation, wait_ms: WAIT_MS });
  const make = async (method: "POST" | "PUT", path: string, body: unknown) => {
    said(await change<ChangeOutcome>(method, modelPath(status.model, path), body), status.model);
    props.refresh();
  };
  const before = format.split(status.deployment.traffic as Shares);
  switch (intent.kind) {
    case "traffic":
      return <TrafficDialog status={status} onClose={onClose} onConfirm={(shares, signed) => make("PUT", "/traffic", { shares, ...common(signed) })} />;
    case "rollback": {
      const target = rollbackTarget(status);
      return (
        <Confirm title={`Roll ${status.model} back?`} action="Roll back" danger signed onClose={onClose} onConfirm={(signed) => make("POST", "/rollback", common(signed))}>
          <Arrow before={before} after={`${target}=100`} />
          <p>
            Version {target} gets all requests{target === status.deployment.stable ? "; it is the stable version" : " and is the stable version again"}.
          </p>
        </Confirm>
      );
    }
    case "promote":
      return (
        <Confirm
          title={`Promote version ${intent.version} of ${status.model}?`}
          action="Promote"
          signed
          onClose={onClose}
          onConfirm={(signed) => make("POST", "/promote", { version: intent.version, ...common(signed) })}
        >
          <Arrow before={before} after={`${intent.version}=100`} />
          <p>It gets all requests, and becomes the stable version. A rollback returns to version {status.deployment.stable}.</p>
        </Confirm>
      );
    case "load":
    case "unload":
      return <LoadDialog intent={intent} status={status} refresh={props.refresh} onClose={onClose} />;
  }
}

function LoadDialog(props: { intent: { kind: "load" | "unload"; version: number }; status: ModelStatus; refresh: () => void; onClose: () => void }) {
  const { kind, version } = props.intent;
  return (
    <Confirm
      title={`${kind === "load" ? "Load" : "Unload"} version ${version} of ${props.status.model}?`}
      action={kind === "load" ? "Load" : "Unload"}
      onClose={props.onClose}
      onConfirm={async () => {
        await change("POST", modelPath(props.status.model, `/versions/${version}/${kind}`), {});
        toast(kind === "load" ? `Version ${version} is being loaded` : `Version ${version} is unloaded`);
        props.refresh();
      }}
    >
      <p>
        {kind === "load"
          ? "It is verified and tried out first, and then kept in memory on this server. It gets no requests by that."
          : "It leaves the memory of this server. It has no share of the requests; those that name it are refused from then on."}
      </p>
    </Confirm>
  );
}

function Arrow({ before, after }: { before: string; after: string }) {
  return (
    <p class="inline mono">
      <span>{before}</span>
      <span class="nowrap" style={{ width: "16px", display: "inline-flex" }}>
        <Sign tone="accent" />
        <span class="visually-hidden">becomes</span>
      </span>
      <span class="strong">{after}</span>
    </p>
  );
}

function TrafficDialog(props: { status: ModelStatus; onClose: () => void; onConfirm: (shares: Shares, signed: Signed) => Promise<void> }) {
  const { status } = props;
  const usable = status.versions.filter((one) => one.state !== "refused" || one.traffic_percent > 0);
  const [texts, setTexts] = useState<Record<number, string>>(() =>
    Object.fromEntries(usable.map((one) => [one.version, String(one.traffic_percent)])),
  );
  const values = usable.map((one) => ({ version: one.version, value: Number((texts[one.version] ?? "").trim() || "0") }));
  const wrong = values.find(({ value }) => !Number.isFinite(value) || value < 0 || value > 100 || Math.abs(value * 100 - Math.round(value * 100)) > 1e-6);
  const sum = values.reduce((all, one) => all + one.value, 0);
  const blocked = wrong
    ? `The share of version ${wrong.version} has to be 0 to 100, with two decimals at most.`
    : Math.abs(sum - 100) > 1e-6
      ? `The shares come to ${format.number(sum, 5)} percent. They have to come to 100.`
      : undefined;
  const shares: Shares = Object.fromEntries(values.filter((one) => one.value > 0).map((one) => [one.version, one.value]));
  const tone = tones(
    usable.map((one) => one.version),
    status.deployment.stable,
  );
  return (
    <Confirm
      title={`Change the traffic of ${status.model}`}
      action="Change traffic"
      signed
      blocked={blocked}
      onClose={props.onClose}
      onConfirm={(signed) => props.onConfirm(shares, signed)}
    >
      <StackedBar
        label="New traffic"
        total={100}
        segments={blocked ? [] : values.map(({ version, value }) => ({ key: String(version), title: `Version ${version}`, value, tone: tone(version), inside: `${version} · ${format.percent(value)}` }))}
      />
      <div class="form-row">
        {usable.map((one) => (
          <div class="field" key={one.version}>
            <label for={`share-${one.version}`}>
              Version {one.version}, percent
            </label>
            <input
              id={`share-${one.version}`}
              inputMode="decimal"
              autocomplete="off"
              value={texts[one.version] ?? ""}
              onInput={(event) => {
                const text = event.currentTarget.value;
                setTexts((before) => {
                  const next = { ...before, [one.version]: text };
                  // With two versions, the other one has the rest.
                  const other = usable.find((candidate) => candidate.version !== one.version);
                  const value = Number(text);
                  if (usable.length === 2 && other && text.trim() !== "" && value >= 0 && value <= 100) next[other.version] = String(Number((100 - value).toFixed(2)));
                  return next;
                });
              }}
            />
          </div>
        ))}
      </div>
      {usable.length < status.versions.length && (
        <Note tone="plain" title="Refused versions cannot have a share" />
      )}
    </Confirm>
  );
}
