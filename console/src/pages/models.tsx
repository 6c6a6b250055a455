import { get } from "../request";
import { Legend, type Segment, StackedBar, tones } from "../charts/shares";
import * as format from "../format";
import { usePoll } from "../poll";
import { modelHref, versionHref } from "../route";
import { Ago, Badge, Command, Empty, Loaded, Note } from "../ui";
import type { ModelStatus, Overview, Shares } from "../wire";

export function Models() {
  const overview = usePoll("overview", (signal) => get<Overview>("admin/v1/models", signal));
  return (
    <div class="stack">
      <div class="page-head">
        <div>
          <h1>Models</h1>
          <p class="lead">Who answers the requests of each model.</p>
        </div>
        {overview.data && <span class={`pulse ${overview.error ? "late" : ""}`}>{overview.error ? "not up to date" : "live"}</span>}
      </div>
      <Loaded of={overview} what="the models">
        {(data) => (
          <>
            {data.problems.map((problem) => (
              <Note key={problem} tone="warn" title="The repository or the state has a problem">
                <p>{problem}</p>
              </Note>
            ))}
            {data.loading && data.loading.length > 0 && (
              <Note tone="accent" title="Loading">
                <p>{data.loading.join("; ")}</p>
              </Note>
            )}
            {data.models.length === 0 ? (
              <div class="card">
                <Empty title="There is no model yet">
                  <p>Leeway looks into an ONNX file, writes the settings, and adds it as version 1:</p>
                  <Command>leeway init model.onnx</Command>
                </Empty>
              </div>
            ) : (
              data.models.map((model) => <ModelCard key={model.model} model={model} />)
            )}
          </>
        )}
      </Loaded>
    </div>
  );
}

/** The traffic of a model as segments, the stable version first. */
export function trafficSegments(model: ModelStatus): Segment[] {
  const shares = model.deployment.traffic as Shares;
  const tone = tones(
    model.versions.map((one) => one.version),
    model.deployment.stable,
  );
  return Object.entries(shares)
    .map(([version, value]) => ({ version: Number(version), value }))
    .filter((one) => one.value > 0)
    .sort((one, other) => Number(other.version === model.deployment.stable) - Number(one.version === model.deployment.stable) || other.version - one.version)
    .map(({ version, value }) => ({
      key: String(version),
      title: `Version ${version}`,
      value,
      tone: tone(version),
      inside: `Version ${version} · ${format.percent(value)}`,
      note: `${format.percent(value)}${version === model.deployment.stable ? ", stable" : ""}`,
      href: versionHref(model.model, version),
    }));
}

export function ServedBadge({ model }: { model: ModelStatus }) {
  return model.unserved ? <Badge tone="bad">not served</Badge> : <Badge tone="good">served</Badge>;
}

/** Everything that is wrong with a model. */
export function ModelProblems({ model }: { model: ModelStatus }) {
  const problems: [string, string | null | undefined][] = [
    ["The model is not served", model.unserved],
    ["model.toml is wrong; the last valid one is in use", model.config_problem],
    ["A newer deployment could not be applied", model.deployment_problem],
    ["The deployment is in effect, but not in the journal yet", model.unwritten],
  ];
  return (
    <>
      {problems.map(
        ([title, text]) =>
          text && (
            <Note key={title} tone={title === problems[0]![0] ? "bad" : "warn"} title={title}>
              <p>{text}</p>
            </Note>
          ),
      )}
    </>
  );
}

function ModelCard({ model }: { model: ModelStatus }) {
  const segments = trafficSegments(model);
  const loaded = model.versions.filter((one) => one.state === "loaded").length;
  const refused = model.versions.filter((one) => one.state === "refused");
  const loading = model.versions.filter((one) => one.state === "loading");
  return (
    <section class="card" aria-label={model.model}>
      <div class="card-head">
        <h2>
          <a href={modelHref(model.model)}>{model.model}</a>
        </h2>
        <ServedBadge model={model} />
      </div>
      <div class="card-body stack">
        <ModelProblems model={model} />
        <div>
          <StackedBar label={`Traffic of ${model.model}`} segments={segments} total={100} />
          <Legend segments={segments} />
        </div>
        <div class="inline small muted">
          <span>
            Generation {model.deployment.generation}: {format.done(model.deployment.action)} by {model.deployment.by || "someone"} <Ago time={model.deployment.at} />
          </span>
          <span>
            {loaded} of {model.versions.length} versions loaded
          </span>
          {loading.map((one) => (
            <Badge key={one.version} tone="accent">
              version {one.version} is loading
            </Badge>
          ))}
          {refused.map((one) => (
            <Badge key={one.version} tone="bad">
              version {one.version} is refused
            </Badge>
          ))}
        </div>
      </div>
    </section>
  );
}
