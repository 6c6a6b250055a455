// A version: what it is, where it is from, and what became of it.

import { get, getOptional, modelPath } from "../request";
import { StackedBar } from "../charts/shares";
import * as format from "../format";
import { POLL_MS, usePoll } from "../poll";
import { modelHref } from "../route";
import { Ago, Badge, Card, Command, Copy, Empty, Loaded, Note } from "../ui";
import type { Deployment, History, ModelSchema, Shares, VersionStatus } from "../wire";
import { ModelHead, useStatus } from "./model";
import { StateBadge } from "./versions";

const HISTORY_LIMIT = 200;
/** Changes of the share that are listed. */
const MAX_SHARES = 5;

interface VersionData {
  status: VersionStatus;
  schema: ModelSchema | undefined;
  history: Deployment[];
}

export function VersionPage({ model, version }: { model: string; version: number }) {
  const head = useStatus(model, "history");
  const path = modelPath(model, `/versions/${version}`);
  const data = usePoll(
    `${model}/${version}`,
    async (signal): Promise<VersionData> => {
      const [status, schema, history] = await Promise.all([
        get<VersionStatus>(path, signal),
        getOptional<ModelSchema>(`${path}/schema`, signal),
        get<History>(modelPath(model, `/history?limit=${HISTORY_LIMIT}`), signal),
      ]);
      return { status, schema, history: history.deployments };
    },
    POLL_MS * 2,
  );
  return (
    <div class="stack">
      <ModelHead model={model} status={head} title={`Version ${version}`} />
      <Loaded of={data} what="the version">
        {(loaded) => <Version model={model} {...loaded} />}
      </Loaded>
    </div>
  );
}

function Version({ model, status, schema, history }: VersionData & { model: string }) {
  const manifest = status.manifest;
  return (
    <>
      {status.state === "refused" && (
        <Note tone="bad" title={`The version is refused: ${format.words(status.fault)}`}>
          <p>{status.problem}</p>
        </Note>
      )}
      {status.altered && (
        <Note tone="bad" title="The files were altered after the load">
          <p>{status.altered}</p>
        </Note>
      )}
      {status.reload_problem && (
        <Note tone="warn" title="It could not be loaded again with the changed model.toml">
          <p>{status.reload_problem}</p>
        </Note>
      )}
      <dl class="tiles">
        <div class="tile">
          <dt>State</dt>
          <dd>
            <StateBadge version={status} />
            <div class="sub">
              {status.loaded_at ? (
                <>
                  loaded <Ago time={status.loaded_at} />
                  {status.load_ms !== undefined && status.load_ms !== null && `, in ${format.ms(status.load_ms)}`}
                </>
              ) : (
                "on disk"
              )}
            </div>
          </dd>
        </div>
        <div class="tile">
          <dt>Traffic</dt>
          <dd>
            {format.percent(status.traffic_percent)}
            <div class="sub">
              {status.stable ? "the stable version" : status.deployed_at ? "a canary" : "only requests that name it"}
              {status.deployed_at && (
                <>
                  , <Ago time={status.deployed_at} />
                </>
              )}
            </div>
          </dd>
        </div>
        {Object.entries(manifest?.metrics ?? {})
          .slice(0, 4)
          .map(([name, value]) => (
            <div class="tile" key={name}>
              <dt>{format.capital(format.words(name))}</dt>
              <dd>
                {format.number(value as number, 4)}
                <div class="sub">of its evaluation</div>
              </dd>
            </div>
          ))}
      </dl>
      <div class="grid">
        <Manifest status={status} class="span-6" />
        <Findings status={status} model={model} class="span-6" />
        <Signature schema={schema} class="span-6" />
        <LoadHistory status={status} model={model} history={history} class="span-6" />
        <Files status={status} model={model} class="span-12" />
      </div>
    </>
  );
}

function Manifest({ status, class: place }: { status: VersionStatus; class: string }) {
  const manifest = status.manifest;
  const facts: [string, string | null | undefined][] = [
    ["Description", manifest?.description],
    ["Framework", manifest?.framework],
    ["Trained", manifest?.trained_at],
    ["Data", manifest?.dataset],
    ["Added", manifest?.added_at ? format.clock(manifest.added_at) : undefined],
    ...Object.entries(manifest?.tags ?? {}),
  ];
  return (
    <Card title="Manifest" class={place}>
      {manifest ? (
        <dl class="facts">
          {facts
            .filter(([, value]) => value)
            .map(([name, value]) => (
              <Fact key={name} name={name}>
                {value}
              </Fact>
            ))}
        </dl>
      ) : (
        <Empty title="The manifest cannot be read" />
      )}
    </Card>
  );
}

function Fact({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}

function Findings({ status, model, class: place }: { status: VersionStatus; model: string; class: string }) {
  const files = Object.keys(status.manifest?.files ?? {});
  const golden = files.includes("golden.json");
  const baseline = files.includes("baseline.json");
  const failed = status.state === "refused" && status.fault === "golden";
  return (
    <Card title="Findings at the load" class={place}>
      <dl class="facts">
        <Fact name="Golden examples">
          {failed ? (
            <Badge tone="bad">not reproduced</Badge>
          ) : !golden ? (
            <>
              <Badge tone="plain">none</Badge>
              <div class="small muted">
                Examples that each load has to reproduce are added with <code>--record-golden</code>.
              </div>
            </>
          ) : status.state === "loaded" ? (
            <Badge tone="good">reproduced</Badge>
          ) : (
            <Badge tone="plain">there, not checked yet</Badge>
          )}
        </Fact>
        <Fact name="Baseline">
          {baseline ? (
            <>
              <Badge tone="good">there</Badge> <a href={modelHref(model, "drift")}>drift</a>
            </>
          ) : (
            <>
              <Badge tone="plain">none</Badge>
              <div class="small muted">
                Without <code>--baseline-data</code>, no drift can be measured.
              </div>
            </>
          )}
        </Fact>
        {status.batching && (
          <Fact name="Batching">
            <Badge tone={status.batching.on ? "good" : "plain"}>{status.batching.on ? "requests share runs" : "off"}</Badge>{" "}
            <span class="small muted">setting {status.batching.setting}</span>
            <div class="small muted">{status.batching.explanation}</div>
          </Fact>
        )}
        <Fact name="Runs in">{status.sessions === "own_processes" ? "processes of its own" : "the server's process"}</Fact>
        <Fact name="Remarks">
          {status.remarks && status.remarks.length > 0 ? (
            <ul>
              {status.remarks.map((remark) => (
                <li key={remark}>{remark}</li>
              ))}
            </ul>
          ) : (
            <span class="muted">none</span>
          )}
        </Fact>
      </dl>
    </Card>
  );
}

interface SchemaNode {
  type?: string | string[];
  enum?: unknown[];
  anyOf?: SchemaNode[];
  items?: SchemaNode;
  minItems?: number;
  maxItems?: number;
  properties?: Record<string, SchemaNode>;
  required?: string[];
}

/** Returns the type of a schema in a few words. */
export function typeOf(node: SchemaNode): string {
  if (node.enum) {
    const values = node.enum.map(String);
    return `one of ${values.slice(0, 6).join(", ")}${values.length > 6 ? ", …" : ""}`;
  }
  if (node.anyOf) return [...new Set(node.anyOf.map(typeOf))].join(" or ");
  const types = ([] as string[]).concat(node.type ?? "anything");
  return types
    .map((type) => {
      if (type === "array") {
        const length = node.minItems !== undefined && node.minItems === node.maxItems ? `${node.minItems} ` : "";
        return node.items ? `list of ${length}${plural(typeOf(node.items))}` : "list";
      }
      if (type === "object" && node.properties) return `object with ${Object.keys(node.properties).join(", ")}`;
      return type === "null" ? "null" : type;
    })
    .join(" or ");
}

function plural(type: string): string {
  return /^(number|string|integer|boolean|object)$/.test(type) ? `${type}s` : type;
}

function Signature({ schema, class: place }: { schema: ModelSchema | undefined; class: string }) {
  if (!schema) {
    return (
      <Card title="Signature" class={place}>
        <Empty title="Known once the version is loaded" />
      </Card>
    );
  }
  return (
    <Card title="Signature" note="what an instance and a prediction are" class={place}>
      <div class="stack">
        <Shape title="Instance" node={schema.instance as SchemaNode} />
        <Shape title="Prediction" node={schema.prediction as SchemaNode} />
      </div>
    </Card>
  );
}

function Shape({ title, node }: { title: string; node: SchemaNode }) {
  const rows = node.properties ? Object.entries(node.properties) : undefined;
  return (
    <div>
      <h3>{title}</h3>
      {rows ? (
        <dl class="facts">
          {rows.map(([name, of]) => (
            <Fact key={name} name={name}>
              {typeOf(of)}
              {!node.required?.includes(name) && <span class="muted"> (optional)</span>}
            </Fact>
          ))}
        </dl>
      ) : (
        <p>{format.capital(typeOf(node))}</p>
      )}
    </div>
  );
}

function LoadHistory({ status, model, history, class: place }: { status: VersionStatus; model: string; history: Deployment[]; class: string }) {
  const of = (one: Deployment | undefined) => (one ? ((one.traffic as Shares)[status.version] ?? 0) : 0);
  const changes = history.filter((one, index) => of(one) !== of(history[index + 1]));
  const rows = changes.slice(0, MAX_SHARES).map((one) => ({
    at: one.at,
    row: (
      <li key={one.generation}>
        <Ago time={one.at} />
        <span class="nowrap">
          <StackedBar mini label="Share" total={100} segments={[{ key: "share", title: "Share", value: of(one), tone: "1", note: format.percent(of(one)) }]} />
        </span>
        <span>
          {format.percent(of(one))}{" "}
          <span class="muted">
            {format.done(one.action)} by {one.by || "someone"}
            {one.reason ? `: ${one.reason}` : ""}
          </span>
        </span>
      </li>
    ),
  }));
  if (status.loaded_at) {
    rows.push({
      at: status.loaded_at,
      row: (
        <li key="loaded">
          <Ago time={status.loaded_at} />
          <span class="strong">loaded</span>
          <span class="muted">on this server, in {format.ms(status.load_ms)}</span>
        </li>
      ),
    });
  }
  rows.sort((one, other) => Date.parse(other.at) - Date.parse(one.at));
  return (
    <Card title="Loads and shares" note={changes.length > MAX_SHARES ? <a href={modelHref(model, "history")}>all {changes.length}</a> : undefined} class={place} flush>
      {rows.length > 0 ? <ul class="events">{rows.map(({ row }) => row)}</ul> : <Empty title="Never loaded here, and never had a share" />}
    </Card>
  );
}

function Files({ status, model, class: place }: { status: VersionStatus; model: string; class: string }) {
  const files = Object.entries(status.manifest?.files ?? {});
  return (
    <Card title="Digests" note="SHA-256; every load compares the files with them" class={place} flush>
      <div class="scroll">
        <table class="table cards">
          <thead>
            <tr>
              <th scope="col">File</th>
              <th scope="col">SHA-256</th>
              <th scope="col">
                <span class="visually-hidden">Copy</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {status.sha256 && (
              <tr>
                <th scope="row">the whole version</th>
                <td class="mono">{status.sha256}</td>
                <td class="number">
                  <Copy text={status.sha256} what="the digest of the version" />
                </td>
              </tr>
            )}
            {files.map(([name, sha256]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="mono">{sha256 as string}</td>
                <td class="number">
                  <Copy text={sha256 as string} what={`the digest of ${name}`} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="muted small" style={{ padding: "8px 18px 12px" }}>
        Verify the files on disk: <Command>{`leeway verify models/${model}/${status.version}`}</Command>
      </p>
    </Card>
  );
}
