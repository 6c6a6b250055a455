// Rollouts that judge themselves: the evidence against its thresholds, the steps, and the interventions.

import { useState } from "preact/hooks";
import { change, getOptional, modelPath } from "../request";
import { Evidence } from "../charts/evidence";
import { type Line, Series } from "../charts/series";
import { Confirm, type Signed } from "../dialog";
import * as format from "../format";
import { usePoll } from "../poll";
import { versionHref } from "../route";
import { toast } from "../toast";
import { Ago, Badge, Card, Command, Empty, Loaded, Note, type Tone } from "../ui";
import type { GuardrailEvidence, ModelStatus, Rollout, RolloutState } from "../wire";

const LISTED = 20;
/** Readings of the evidence that are kept in the page. */
const MAX_READINGS = 600;

const STATES: Record<RolloutState, { tone: Tone; title: string }> = {
  running: { tone: "accent", title: "running" },
  paused: { tone: "warn", title: "paused" },
  promoted: { tone: "good", title: "promoted" },
  rolled_back: { tone: "bad", title: "rolled back" },
  aborted: { tone: "plain", title: "aborted" },
  superseded: { tone: "plain", title: "superseded" },
};

const VERDICTS: Record<GuardrailEvidence["verdict"], { tone: Tone; title: string }> = {
  no_data: { tone: "plain", title: "no data yet" },
  undecided: { tone: "plain", title: "undecided" },
  not_worse: { tone: "good", title: "not worse" },
  worse: { tone: "bad", title: "worse" },
};

const GUARDRAILS: Record<string, string> = {
  errors: "Errors",
  invalid: "Invalid requests",
  latency: "Slow answers",
  non_finite: "Non-finite outputs",
  low_confidence: "Low confidence",
  wrong: "Wrong by feedback",
  disagreement: "Disagreement of copies",
  shadow_errors: "Errors of copies",
};

function titleOf(guardrail: string): string {
  return GUARDRAILS[guardrail] ?? (guardrail.startsWith("business_") ? `Low ${format.words(guardrail.slice("business_".length))}` : format.capital(format.words(guardrail)));
}

type Action = "pause" | "resume" | "abort" | "promote";

interface RolloutData {
  current: Rollout | undefined;
  past: Rollout[];
}

function isActive(rollout: Rollout | undefined): rollout is Rollout {
  return rollout?.state === "running" || rollout?.state === "paused";
}

export function Rollouts({ status, refresh }: { status: ModelStatus; refresh: () => void }) {
  const { model } = status;
  const rollouts = usePoll(`rollouts/${model}`, async (signal): Promise<RolloutData> => {
    const [current, past] = await Promise.all([
      getOptional<Rollout>(modelPath(model, "/rollout"), signal),
      getOptional<{ rollouts: Rollout[] }>(modelPath(model, `/rollouts?limit=${LISTED}`), signal),
    ]);
    return { current, past: past?.rollouts ?? [] };
  });
  const [starting, setStarting] = useState(false);
  const [action, setAction] = useState<Action | undefined>(undefined);
  const again = () => {
    rollouts.refresh();
    refresh();
  };
  return (
    <Loaded of={rollouts} what="the rollouts">
      {({ current, past }) => (
        <>
          {!isActive(current) && (
            <div class="inline">
              <button type="button" class="button primary" onClick={() => setStarting(true)} disabled={status.versions.length < 2}>
                Start a rollout…
              </button>
              {status.versions.length < 2 && <span class="muted">A rollout needs a second version.</span>}
            </div>
          )}
          {current ? (
            <Current key={current.number} rollout={current} onAction={setAction} />
          ) : (
            <div class="card">
              <Empty title="There was no rollout yet">
                <p>
                  A rollout gives a new version a growing share of the requests. It goes on while the evidence says that the version is not worse than the stable one, and goes back
                  as soon as it says that it is.
                </p>
                <Command>{`leeway rollout ${model} ${status.versions[0]?.version ?? 2} --steps 1,5,25,50,100 --every 10m`}</Command>
              </Empty>
            </div>
          )}
          <Past rollouts={past.filter((one) => one.number !== current?.number)} />
          {starting && <Start status={status} onClose={() => setStarting(false)} onDone={again} />}
          {action && current && <Intervene action={action} rollout={current} onClose={() => setAction(undefined)} onDone={again} />}
        </>
      )}
    </Loaded>
  );
}

function Current({ rollout, onAction }: { rollout: Rollout; onAction: (action: Action) => void }) {
  const state = STATES[rollout.state];
  const active = isActive(rollout);
  return (
    <>
      <Card
        title={`Rollout ${rollout.number}: version ${rollout.version} against version ${rollout.stable}`}
        note={<Badge tone={state.tone}>{state.title}</Badge>}
        actions={
          active ? (
            <div class="actions">
              {rollout.state === "running" ? (
                <button type="button" class="button" onClick={() => onAction("pause")}>
                  Pause…
                </button>
              ) : (
                <button type="button" class="button" onClick={() => onAction("resume")}>
                  Resume…
                </button>
              )}
              <button type="button" class="button" onClick={() => onAction("promote")}>
                Promote now…
              </button>
              <button type="button" class="button danger" onClick={() => onAction("abort")}>
                Abort…
              </button>
            </div>
          ) : undefined
        }
      >
        <div class="stack">
          <p aria-live="polite">{format.capital(rollout.explanation)}</p>
          <Track rollout={rollout} />
          <dl class="facts">
            <dt>Version</dt>
            <dd>
              <a href={versionHref(rollout.model, rollout.version)}>{rollout.version}</a>, compared with <a href={versionHref(rollout.model, rollout.stable)}>{rollout.stable}</a>
            </dd>
            <dt>Started</dt>
            <dd>
              <Ago time={rollout.started_at} />
              {rollout.ended_at && (
                <>
                  , ended <Ago time={rollout.ended_at} />
                </>
              )}
            </dd>
            <dt>Each step</dt>
            <dd>
              {format.duration(rollout.plan.step_ms)} at least, {format.duration(rollout.plan.timeout_ms)} at most, then {rollout.plan.on_timeout === "hold" ? "hold" : "roll back"}
            </dd>
            {rollout.plan.shadow ? (
              <>
                <dt>Shadow</dt>
                <dd>{format.percent(rollout.plan.shadow)} of the stable version's requests</dd>
              </>
            ) : null}
          </dl>
        </div>
      </Card>
      <Guardrails rollout={rollout} />
      {active && <EvidenceOverTime rollout={rollout} />}
      <Events rollout={rollout} />
    </>
  );
}

/** The steps as a track: how far the version has come, and how much of the step's minimum time is over. */
function Track({ rollout }: { rollout: Rollout }) {
  const { steps, step_ms } = rollout.plan;
  const active = isActive(rollout);
  const done = rollout.state === "promoted" ? steps.length : rollout.step;
  const part = Math.min(1, Math.max(0, (Date.now() - Date.parse(rollout.step_since)) / Math.max(1, step_ms)));
  return (
    <ol class="track-steps" aria-label="Steps">
      {steps.map((share, index) => {
        const kind = index < done ? "done" : index === rollout.step && active ? "current" : "later";
        return (
          <li key={share} class={kind} aria-current={kind === "current" ? "step" : undefined}>
            <span class="rail">{kind === "current" && <i style={{ width: `${Math.max(4, part * 100)}%` }} />}</span>
            <span>
              <span class="step-share">{format.percent(share)}</span>
              <span class="small muted">
                {kind === "current" ? (part < 1 ? ` ${format.duration((1 - part) * step_ms)} to go` : " waits") : kind === "done" ? " done" : ""}
              </span>
            </span>
          </li>
        );
      })}
    </ol>
  );
}

function Guardrails({ rollout }: { rollout: Rollout }) {
  const judged = rollout.guardrails.filter((one) => one.verdict !== "no_data");
  const silent = rollout.guardrails.filter((one) => one.verdict === "no_data");
  return (
    <Card title="Evidence" note="on a log scale: it advances at the left threshold, and rolls back at the right one" flush>
      {judged.length === 0 ? (
        <Empty title="No guardrail has seen a request yet" />
      ) : (
        <ul>
          {judged.map((guardrail) => {
            const verdict = VERDICTS[guardrail.verdict];
            return (
              <li class="guardrail" key={guardrail.name}>
                <div class="what">
                  <h3>{titleOf(guardrail.name)}</h3>
                  <Badge tone={verdict.tone}>{verdict.title}</Badge>
                </div>
                <Evidence guardrail={guardrail} />
                <div class="why">
                  {guardrail.explanation ? `${format.capital(guardrail.explanation)} ` : ""}
                  <span class="nowrap">
                    Version {rollout.version}: {counts(guardrail.candidate)}.
                  </span>{" "}
                  <span class="nowrap">
                    Version {rollout.stable}: {counts(guardrail.stable)}.
                  </span>
                </div>
              </li>
            );
          })}
        </ul>
      )}
      {silent.length > 0 && (
        <p class="muted small" style={{ padding: "10px 18px 12px" }}>
          Nothing to judge yet: {silent.map((one) => titleOf(one.name).toLowerCase()).join(", ")}.
        </p>
      )}
    </Card>
  );
}

function counts({ events, trials }: { events: number; trials: number }): string {
  return trials === 0 ? "nothing counted" : `${format.count(events)} of ${format.count(trials)} (${format.share(events / trials, 2)})`;
}

interface Reading {
  at: number;
  values: Record<string, number>;
}

const kept = new Map<string, Reading[]>();

/** The evidence that the version is worse, as a part of the threshold, while the page has been open. */
function EvidenceOverTime({ rollout }: { rollout: Rollout }) {
  const key = `${rollout.model}/${rollout.number}`;
  let readings = kept.get(key) ?? [];
  const now = Math.floor(Date.now() / 1000);
  if ((readings.at(-1)?.at ?? 0) < now) {
    const values = Object.fromEntries(rollout.guardrails.map((one) => [one.name, Math.max(one.worse / Math.max(one.worse_at, 1e-9), 1e-6)]));
    readings = [...readings, { at: now, values }].slice(-MAX_READINGS);
    kept.clear();
    kept.set(key, readings);
  }
  const lines: Line[] = rollout.guardrails.filter((one) => one.verdict !== "no_data").map((one, index) => ({
    title: titleOf(one.name),
    tone: `c${(index % 5) + 1}`,
    ...(index % 3 === 1 ? { dash: [7, 4] } : index % 3 === 2 ? { dash: [2, 3] } : {}),
    values: readings.map((reading) => reading.values[one.name] ?? null),
  }));
  if (readings.length < 2 || lines.length === 0) return null;
  return (
    <Card title="Evidence that it is worse" note="as a part of the threshold, since this page was opened">
      <Series label="Evidence that the version is worse" times={readings.map((one) => one.at)} lines={lines} unit={(value) => format.number(value, 2)} log marks={[{ at: 1, title: "rolls back" }]} spanS={120} />
    </Card>
  );
}

const ACTIONS: Record<string, Tone> = { start: "accent", advance: "accent", promote: "good", roll_back: "bad", pause: "warn", abort: "bad" };

function Events({ rollout }: { rollout: Rollout }) {
  return (
    <Card title="Events" note="the newest first" flush>
      <ol class="events">
        {[...rollout.events].reverse().map((event) => (
          <li key={`${event.at}/${event.action}`}>
            <span>
              <Ago time={event.at} />
              <div class="small muted">{format.clock(event.at)}</div>
            </span>
            <span>
              <Badge tone={ACTIONS[event.action] ?? "plain"}>{format.words(event.action)}</Badge>
            </span>
            <span>
              <span class="strong">{format.percent(event.share)}</span> <span class="muted">by {event.by || "someone"}</span>
              {event.reason && <div>{event.reason}</div>}
            </span>
          </li>
        ))}
      </ol>
    </Card>
  );
}

function Past({ rollouts }: { rollouts: Rollout[] }) {
  if (rollouts.length === 0) return null;
  return (
    <Card title="Earlier rollouts" flush>
      <table class="table cards">
        <thead>
          <tr>
            <th scope="col">Rollout</th>
            <th scope="col">Version</th>
            <th scope="col">Result</th>
            <th scope="col">Started</th>
            <th scope="col">Why</th>
          </tr>
        </thead>
        <tbody>
          {rollouts.map((one) => (
            <tr key={one.number}>
              <th scope="row">{one.number}</th>
              <td data-label="Version">
                {one.version} against {one.stable}
              </td>
              <td data-label="Result">
                <Badge tone={STATES[one.state].tone}>{STATES[one.state].title}</Badge>
              </td>
              <td data-label="Started">
                <Ago time={one.started_at} />
              </td>
              <td data-label="Why">{one.explanation}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Card>
  );
}

const INTERVENTIONS: Record<Action, { title: string; action: string; text: (rollout: Rollout) => string; done: string }> = {
  pause: {
    title: "Pause the rollout?",
    action: "Pause",
    text: (rollout) => `Version ${rollout.version} keeps its share. It is still rolled back if it is worse.`,
    done: "The rollout is paused",
  },
  resume: { title: "Resume the rollout?", action: "Resume", text: () => "It advances again when the evidence allows.", done: "The rollout goes on" },
  abort: {
    title: "Abort the rollout?",
    action: "Abort",
    text: (rollout) => `All requests go to version ${rollout.stable} again.`,
    done: "The rollout is aborted",
  },
  promote: {
    title: "Promote now?",
    action: "Promote now",
    text: (rollout) => `Version ${rollout.version} gets all requests and becomes the stable version, whatever the evidence says.`,
    done: "The version is promoted",
  },
};

function Intervene(props: { action: Action; rollout: Rollout; onClose: () => void; onDone: () => void }) {
  const { action, rollout } = props;
  const intervention = INTERVENTIONS[action];
  return (
    <Confirm
      title={intervention.title}
      action={intervention.action}
      danger={action === "abort"}
      signed
      onClose={props.onClose}
      onConfirm={async (signed: Signed) => {
        await change<Rollout>("POST", modelPath(rollout.model, `/rollout/${action}`), signed);
        toast(intervention.done);
        props.onDone();
      }}
    >
      <p>{intervention.text(rollout)}</p>
    </Confirm>
  );
}

const UNITS: Record<string, number> = { s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/** Returns the milliseconds of a text like `10m`. */
export function milliseconds(text: string): number | undefined {
  const match = /^\s*([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d)\s*$/.exec(text);
  return match ? Math.round(Number(match[1]) * UNITS[match[2]!]!) : undefined;
}

function Start({ status: shown, onClose, onDone }: { status: ModelStatus; onClose: () => void; onDone: () => void }) {
  const [status] = useState(shown);
  const candidates = status.versions.filter((one) => one.version !== status.deployment.stable && one.state !== "refused");
  const [version, setVersion] = useState(candidates[0]?.version);
  const [steps, setSteps] = useState("1, 5, 25, 50, 100");
  const [every, setEvery] = useState("10m");
  const [timeout, setTimeoutText] = useState("");
  const [onTimeout, setOnTimeout] = useState<"hold" | "roll_back">("hold");
  const [shadow, setShadow] = useState("");

  const shares = steps
    .split(/[\s,]+/)
    .filter((part) => part !== "")
    .map(Number);
  const rising = shares.every((share, index) => Number.isFinite(share) && share > (shares[index - 1] ?? 0));
  const blocked =
    version === undefined
      ? "There is no version beside the stable one that could be rolled out."
      : !rising || shares.at(-1) !== 100
        ? "The steps are percent in rising order, and the last one is 100."
        : milliseconds(every) === undefined
          ? "The time of a step is a number with a unit, as in 30s, 10m or 2h."
          : timeout.trim() !== "" && milliseconds(timeout) === undefined
            ? "The maximum time is a number with a unit, as in 30m, or empty."
            : shadow.trim() !== "" && !(Number(shadow) >= 0 && Number(shadow) <= 100)
              ? "The share of shadow traffic is 0 to 100 percent, or empty."
              : undefined;

  return (
    <Confirm
      title={`Start a rollout of ${status.model}`}
      action="Start"
      signed
      blocked={blocked}
      onClose={onClose}
      onConfirm={async (signed) => {
        await change<Rollout>("POST", modelPath(status.model, "/rollout"), {
          version,
          steps: shares,
          step_ms: milliseconds(every),
          ...(timeout.trim() === "" ? {} : { timeout_ms: milliseconds(timeout) }),
          on_timeout: onTimeout,
          ...(shadow.trim() === "" ? {} : { shadow: Number(shadow) }),
          ...signed,
          if_generation: status.deployment.generation,
        });
        toast(`The rollout of version ${version} has started`);
        onDone();
      }}
    >
      <div class="form-row">
        <div class="field">
          <label for="rollout-version">Version</label>
          <select id="rollout-version" value={version} onChange={(event) => setVersion(Number(event.currentTarget.value))}>
            {candidates.map((one) => (
              <option key={one.version} value={one.version}>
                {one.version}
                {one.manifest?.description ? `: ${one.manifest.description}` : ""}
              </option>
            ))}
          </select>
        </div>
        <div class="field">
          <label for="rollout-steps">Steps, percent</label>
          <input id="rollout-steps" value={steps} autocomplete="off" onInput={(event) => setSteps(event.currentTarget.value)} />
        </div>
      </div>
      <div class="form-row">
        <div class="field">
          <label for="rollout-every">Each step at least</label>
          <input id="rollout-every" value={every} autocomplete="off" onInput={(event) => setEvery(event.currentTarget.value)} />
        </div>
        <div class="field">
          <label for="rollout-timeout">Each step at most</label>
          <input id="rollout-timeout" value={timeout} placeholder="as configured" autocomplete="off" onInput={(event) => setTimeoutText(event.currentTarget.value)} />
        </div>
      </div>
      <div class="form-row">
        <div class="field">
          <label for="rollout-on-timeout">When the time is over</label>
          <select id="rollout-on-timeout" value={onTimeout} onChange={(event) => setOnTimeout(event.currentTarget.value === "roll_back" ? "roll_back" : "hold")}>
            <option value="hold">hold</option>
            <option value="roll_back">roll back</option>
          </select>
        </div>
        <div class="field">
          <label for="rollout-shadow">Shadow traffic, percent</label>
          <input id="rollout-shadow" value={shadow} placeholder="as configured" inputMode="decimal" autocomplete="off" onInput={(event) => setShadow(event.currentTarget.value)} />
        </div>
      </div>
      {isSplit(status) && (
        <Note tone="warn" title="Several versions have a share now">
          <p>The rollout begins with its first step instead.</p>
        </Note>
      )}
    </Confirm>
  );
}

function isSplit(status: ModelStatus): boolean {
  return Object.values(status.deployment.traffic as Record<string, number>).filter((share) => share > 0).length > 1;
}
