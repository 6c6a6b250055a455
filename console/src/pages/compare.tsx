// Two versions beside each other: what was counted, what the difference proves, and whether shadow traffic agrees.

import { useState } from "preact/hooks";
import { ApiError, change, get, metrics, modelPath } from "../request";
import { StackedBar } from "../charts/shares";
import { Confirm } from "../dialog";
import * as format from "../format";
import { usePoll } from "../poll";
import { toast } from "../toast";
import { Badge, Card, Command, Empty, Loaded, Note, type Tone } from "../ui";
import type { ChangeOutcome, ComparedMeasure, Comparison, ModelStatus, Shadow } from "../wire";

const COMPARE_POLL_MS = 5000;

const FINDINGS: Record<ComparedMeasure["finding"], { tone: Tone; title: string }> = {
  no_data: { tone: "plain", title: "too little data" },
  undecided: { tone: "plain", title: "undecided" },
  better: { tone: "good", title: "better" },
  worse: { tone: "bad", title: "worse" },
  higher: { tone: "accent", title: "higher" },
  lower: { tone: "accent", title: "lower" },
};

interface CompareData {
  /** Absent if the server does not compare. */
  comparison: Comparison | undefined;
  metrics: string;
}

export function Compare({ status }: { status: ModelStatus }) {
  const versions = status.versions.filter((one) => one.state === "loaded").map((one) => one.version);
  const stable = status.deployment.stable;
  const [one, setOne] = useState(stable);
  const [other, setOther] = useState(versions.find((version) => version !== stable));
  const data = usePoll(
    `compare/${status.model}/${one}/${other}`,
    async (signal): Promise<CompareData> => {
      if (other === undefined) return { comparison: undefined, metrics: "" };
      const [comparison, text] = await Promise.all([
        get<Comparison>(modelPath(status.model, `/compare?one=${one}&other=${other}`), signal).catch((error: unknown) => {
          if (error instanceof ApiError && error.status === 404) return undefined;
          throw error;
        }),
        metrics(signal),
      ]);
      return { comparison, metrics: text };
    },
    COMPARE_POLL_MS,
  );
  if (other === undefined) {
    return (
      <div class="card">
        <Empty title="There is nothing to compare">
          <p>A comparison needs two loaded versions of the model. Load another one on the page of the versions, or add one:</p>
          <Command>{`leeway add models/${status.model} --onnx model.onnx`}</Command>
        </Empty>
      </div>
    );
  }
  return (
    <>
      <div class="inline">
        <Pick label="Compare" value={other} versions={versions} not={one} onChange={setOther} />
        <Pick label="with" value={one} versions={versions} not={other} onChange={setOne} />
      </div>
      <Loaded of={data} what="the comparison">
        {({ comparison, metrics: text }) => (
          <>
            {comparison ? (
              <Measures comparison={comparison} />
            ) : (
              <div class="card">
                <Empty title={`Version ${other} and version ${one} cannot be compared here`}>
                  <p>Both have to be loaded on this server.</p>
                </Empty>
              </div>
            )}
            <ShadowCard status={status} versions={versions} agreement={agreementOf(text, status.model, (status.deployment as { shadow?: Shadow | null }).shadow?.version ?? other)} refresh={data.refresh} />
          </>
        )}
      </Loaded>
    </>
  );
}

function Pick(props: { label: string; value: number; versions: number[]; not: number; onChange: (version: number) => void }) {
  return (
    <label class="inline">
      <span class="muted">{props.label}</span>
      <select style={{ width: "auto" }} value={props.value} onChange={(event) => props.onChange(Number(event.currentTarget.value))}>
        {props.versions
          .filter((version) => version !== props.not)
          .map((version) => (
            <option key={version} value={version}>
              Version {version}
            </option>
          ))}
      </select>
    </label>
  );
}

function inUnit(measure: ComparedMeasure, value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (measure.kind === "share") return format.share(value, 2);
  if (measure.kind === "seconds") return value < 0 ? `−${format.ms(-value * 1000)}` : format.ms(value * 1000);
  return format.number(value);
}

function signed(measure: ComparedMeasure, value: number): string {
  const points = measure.kind === "share" ? `${(Math.abs(value) * 100).toFixed(2)} points` : inUnit(measure, Math.abs(value));
  return `${value < 0 ? "−" : "+"}${points}`;
}

function Measures({ comparison }: { comparison: Comparison }) {
  const { one, other } = comparison;
  const requests = (counts: Record<string, number>) => Object.values(counts).reduce((all, count) => all + count, 0);
  return (
    <Card title={`Version ${other.version} compared with version ${one.version}`} note="since both were loaded; intervals and p-values hold however often one looks" flush>
      <table class="table cards">
        <thead>
          <tr>
            <th scope="col">Measure</th>
            <th scope="col" class="number">
              Version {one.version}
            </th>
            <th scope="col" class="number">
              Version {other.version}
            </th>
            <th scope="col">Difference, 95 % interval</th>
            <th scope="col" class="number">
              p
            </th>
            <th scope="col">Finding</th>
          </tr>
        </thead>
        <tbody>
          {comparison.measures.map((measure) => {
            const finding = FINDINGS[measure.finding];
            const difference = measure.difference;
            return (
              <tr key={measure.name}>
                <th scope="row" style={{ maxWidth: "380px" }}>
                  {title(measure.name)}
                  <div class="small muted">{measure.explanation}</div>
                </th>
                <td class="number" data-label={`Version ${one.version}`}>
                  {inUnit(measure, measure.one.value)}
                  <div class="small muted">
                    of {format.short(measure.one.of)} {measure.counted}
                  </div>
                </td>
                <td class="number" data-label={`Version ${other.version}`}>
                  {inUnit(measure, measure.other.value)}
                  <div class="small muted">
                    of {format.short(measure.other.of)} {measure.counted}
                  </div>
                </td>
                <td data-label="Difference">
                  {difference ? (
                    <>
                      <span class="nowrap">{signed(measure, difference.difference)}</span>
                      <IntervalPlot measure={measure} />
                    </>
                  ) : (
                    <span class="muted">–</span>
                  )}
                </td>
                <td class="number" data-label="p">
                  {difference ? (difference.p_value < 0.001 ? "< 0.001" : format.number(difference.p_value, 2)) : "–"}
                </td>
                <td data-label="Finding">
                  <Badge tone={finding.tone}>{finding.title}</Badge>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
      <p class="muted small" style={{ padding: "8px 18px 12px" }}>
        {format.count(requests(one.requests))} requests to version {one.version}, {format.count(requests(other.requests))} to version {other.version}.
      </p>
    </Card>
  );
}

function title(name: string): string {
  if (name === "mae") return "Mean absolute error";
  if (name.startsWith("business.")) return format.capital(format.words(name.slice("business.".length)));
  if (name.startsWith("latency_p")) return `Latency P${name.slice("latency_p".length)}`;
  return format.capital(format.words(name));
}

/** The interval of a difference around zero. */
function IntervalPlot({ measure }: { measure: ComparedMeasure }) {
  const { difference, lower, upper } = measure.difference!;
  if (lower === null || lower === undefined || upper === null || upper === undefined) return null;
  const reach = Math.max(Math.abs(lower), Math.abs(upper), Math.abs(difference), 1e-12) * 1.1;
  const x = (value: number) => 80 + (value / reach) * 78;
  return (
    <svg width="160" height="18" viewBox="0 0 160 18" role="img" style={{ display: "block" }} aria-label={`From ${signed(measure, lower)} to ${signed(measure, upper)}`}>
      <line class="axis-line" x1="80" x2="80" y1="1" y2="17" stroke-dasharray="2 2" />
      <line class="value-line" x1={x(lower)} x2={x(upper)} y1="9" y2="9" />
      {[lower, upper].map((end) => (
        <line key={end} class="value-line" x1={x(end)} x2={x(end)} y1="5" y2="13" />
      ))}
      <circle class="fill-1" cx={x(difference)} cy="9" r="3.6" />
    </svg>
  );
}

interface Agreement {
  agreed: number;
  disagreed: number;
  requests: Record<string, number>;
  shadowSeconds: number;
  stableSeconds: number;
}

/** Reads the counters of a version's shadow traffic from the metrics; undefined if it had none. */
export function agreementOf(text: string, model: string, version: number): Agreement | undefined {
  const found: Agreement = { agreed: 0, disagreed: 0, requests: {}, shadowSeconds: 0, stableSeconds: 0 };
  let any = false;
  for (const line of text.split("\n")) {
    const match = /^leeway_shadow_(requests_total|predictions_total|seconds_total)\{([^}]*)\} ([0-9.e+-]+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[2]!.matchAll(/(\w+)="([^"]*)"/g)].map((one) => [one[1]!, one[2]!]));
    if (labels.model !== model || labels.version !== String(version)) continue;
    any = true;
    const value = Number(match[3]);
    if (match[1] === "requests_total") found.requests[labels.outcome ?? ""] = value;
    else if (match[1] === "predictions_total") found[labels.agreement === "agreed" ? "agreed" : "disagreed"] = value;
    else if (labels.by === "shadow") found.shadowSeconds = value;
    else found.stableSeconds = value;
  }
  return any ? found : undefined;
}

function ShadowCard(props: { status: ModelStatus; versions: number[]; agreement: Agreement | undefined; refresh: () => void }) {
  const { status, agreement } = props;
  const [changing, setChanging] = useState(false);
  const shadow = (status.deployment as { shadow?: Shadow | null }).shadow ?? undefined;
  const pairs = agreement ? agreement.agreed + agreement.disagreed : 0;
  const compared = agreement?.requests.compared ?? 0;
  return (
    <Card
      title="Shadow traffic"
      note={shadow ? `version ${shadow.version} gets copies of ${format.percent(shadow.percent)} of the requests` : "off"}
      actions={
        <div class="actions">
          <button type="button" class="button" onClick={() => setChanging(true)}>
            Change shadow traffic…
          </button>
        </div>
      }
    >
      {!agreement || pairs === 0 ? (
        <Empty title={shadow ? "No pair of answers yet" : "No version gets copies of requests"}>
          <p>
            A version with shadow traffic answers copies of the stable version's requests. Its answers are compared and thrown away: no client sees them, and no client waits for
            them.
          </p>
        </Empty>
      ) : (
        <div class="stack">
          <div>
            <StackedBar
              label="Agreement"
              segments={[
                { key: "agreed", title: "agree", value: agreement.agreed, tone: "1", inside: `${format.share(agreement.agreed / pairs, 2)} agree` },
                { key: "disagreed", title: "disagree", value: agreement.disagreed, tone: "2", inside: `${format.share(agreement.disagreed / pairs, 2)} disagree` },
              ]}
            />
          </div>
          <dl class="facts">
            <dt>Predictions compared</dt>
            <dd>
              {format.count(pairs)}, of which {format.count(agreement.disagreed)} disagree
            </dd>
            {compared > 0 && (
              <>
                <dt>Time of a request</dt>
                <dd>
                  {format.ms((agreement.shadowSeconds / compared) * 1000)}; the stable version {format.ms((agreement.stableSeconds / compared) * 1000)}
                </dd>
              </>
            )}
            {Object.entries(agreement.requests)
              .filter(([name, count]) => name !== "compared" && count > 0)
              .map(([name, count]) => (
                <Fact key={name} name={format.capital(format.words(name))} value={format.count(count)} />
              ))}
          </dl>
        </div>
      )}
      {changing && <ShadowDialog status={status} versions={props.versions} shadow={shadow} onClose={() => setChanging(false)} refresh={props.refresh} />}
    </Card>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </>
  );
}

function ShadowDialog(props: { status: ModelStatus; versions: number[]; shadow: Shadow | undefined; onClose: () => void; refresh: () => void }) {
  const [status] = useState(props.status);
  const candidates = props.versions.filter((version) => version !== status.deployment.stable);
  const [version, setVersion] = useState(props.shadow?.version ?? candidates[0]);
  const [percent, setPercent] = useState(String(props.shadow?.percent ?? 10));
  const value = Number(percent);
  const blocked =
    version === undefined
      ? "There is no loaded version beside the stable one."
      : percent.trim() === "" || !(value >= 0 && value <= 100)
        ? "The share is 0 to 100 percent; 0 ends shadow traffic."
        : undefined;
  return (
    <Confirm
      title={`Shadow traffic of ${status.model}`}
      action="Change"
      signed
      blocked={blocked}
      onClose={props.onClose}
      onConfirm={async (by) => {
        await change<ChangeOutcome>("POST", modelPath(status.model, "/shadow"), { version, percent: value, ...by, if_generation: status.deployment.generation });
        toast(value === 0 ? "Shadow traffic is off" : `Version ${version} gets copies of ${format.percent(value)} of the requests`);
        props.refresh();
      }}
    >
      <div class="form-row">
        <div class="field">
          <label for="shadow-version">Version</label>
          <select id="shadow-version" value={version} onChange={(event) => setVersion(Number(event.currentTarget.value))}>
            {candidates.map((one) => (
              <option key={one} value={one}>
                {one}
              </option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for="shadow-percent">Copies, percent of the requests</label>
          <input id="shadow-percent" inputMode="decimal" autocomplete="off" value={percent} onInput={(event) => setPercent(event.currentTarget.value)} />
        </div>
      </div>
      <Note tone="plain" title="No client sees its answers, and none waits for them" />
    </Confirm>
  );
}
