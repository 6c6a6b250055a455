// What a version predicts, how sure it is, and how right, as far as outcomes are known.

import { useState } from "preact/hooks";
import { get, modelPath } from "../request";
import { Calibration } from "../charts/calibration";
import { Histogram } from "../charts/histogram";
import * as format from "../format";
import { usePoll } from "../poll";
import { Card, chosen, Command, Empty, Loaded, VersionChoice } from "../ui";
import type { FeatureDrift, ModelPredictions, VersionPredictions } from "../wire";

const PREDICTIONS_POLL_MS = 4000;
const MAX_CLASSES = 24;

export function Predictions({ model }: { model: string }) {
  const predictions = usePoll(
    `predictions/${model}`,
    (signal) => get<ModelPredictions>(modelPath(model, "/predictions"), signal),
    PREDICTIONS_POLL_MS,
  );
  const [choice, setChoice] = useState<number | undefined>(undefined);
  return (
    <Loaded of={predictions} what="the predictions">
      {(data) => {
        const version = chosen(data.versions, choice);
        if (!data.enabled) {
          return (
            <div class="card">
              <Empty title="Monitoring is off">
                <p>Predictions are counted where it is on:</p>
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
          <>
            <div class="inline">
              <VersionChoice versions={data.versions} value={version.version} onChange={setChoice} />
              <span class="pulse">{format.count(version.predictions)} predictions since the load</span>
            </div>
            <Version version={version} />
          </>
        );
      }}
    </Loaded>
  );
}

function Version({ version }: { version: VersionPredictions }) {
  const outcomes = version.outcomes;
  const labels = outcomes?.labels ?? 0;
  return (
    <>
      <dl class="tiles">
        <div class="tile">
          <dt>Right</dt>
          <dd>
            {format.share(outcomes?.accuracy, 1)}
            <div class="sub">
              {outcomes?.accuracy_interval
                ? `${format.share(outcomes.accuracy_interval.lower, 1)} to ${format.share(outcomes.accuracy_interval.upper, 1)} with 95 % confidence`
                : "no outcomes reported yet"}
            </div>
          </dd>
        </div>
        <div class="tile">
          <dt>Estimated without outcomes</dt>
          <dd>
            {format.share(outcomes?.accuracy_estimate, 1)}
            <div class="sub">from how sure the model is</div>
          </dd>
        </div>
        <div class="tile">
          <dt>Outcomes</dt>
          <dd>
            {format.short(labels)}
            <div class="sub">{outcomes?.label_coverage ? `of ${format.share(outcomes.label_coverage, 1)} of the predictions` : "reported"}</div>
          </dd>
        </div>
        {outcomes?.calibration_error !== undefined && outcomes.calibration_error !== null && (
          <div class="tile">
            <dt>Calibration error</dt>
            <dd>
              {format.share(outcomes.calibration_error, 1)}
              <div class="sub">Brier score {format.number(outcomes.brier_score)}</div>
            </dd>
          </div>
        )}
        {outcomes?.mean_absolute_error !== undefined && outcomes.mean_absolute_error !== null && (
          <div class="tile">
            <dt>Mean absolute error</dt>
            <dd>
              {format.number(outcomes.mean_absolute_error)}
              <div class="sub">root mean square {format.number(outcomes.root_mean_squared_error)}</div>
            </dd>
          </div>
        )}
        {version.business.map((metric) => (
          <div class="tile" key={metric.name}>
            <dt>{format.capital(format.words(metric.name))}</dt>
            <dd>
              {format.number(metric.value)}
              <div class="sub">
                {metric.kind} of {format.short(metric.items)}
              </div>
            </dd>
          </div>
        ))}
      </dl>
      <div class="grid">
        <ClassMix version={version} />
        <Confidence version={version} />
        {version.parts.length > 0 && version.classes.length === 0 && version.parts.map((part) => <Part key={part.name} part={part} />)}
        <CalibrationCard version={version} />
        <Confusion version={version} />
        <ByClass version={version} />
      </div>
    </>
  );
}

/** The class mix of the window, with that of the training data where the baseline has it; else since the load. */
function ClassMix({ version }: { version: VersionPredictions }) {
  const part = version.parts.find((one) => one.name === "class");
  const total = version.classes.reduce((all, one) => all + one.count, 0);
  if (total === 0 && !part) return null;
  const fromPart = part && part.window_count > 0;
  const rows = (
    fromPart
      ? part.bins.filter((bin) => bin.bin !== "missing" || bin.window_count > 0).map((bin) => ({ name: bin.bin, live: bin.window_ratio ?? 0, baseline: bin.baseline_ratio ?? undefined, count: bin.window_count }))
      : version.classes.map((one) => ({ name: one.class, live: one.count / (total || 1), baseline: undefined, count: one.count }))
  ).filter((row) => row.name !== "other" || row.live > 0 || (row.baseline ?? 0) > 0);
  const most = Math.max(0.01, ...rows.flatMap((row) => [row.live, row.baseline ?? 0]));
  return (
    <Card title="Class mix" note={fromPart ? `last ${format.duration(version.window_s * 1000)}` : "since the load"} class="span-6">
      {rows.length === 0 || rows.every((row) => row.live === 0) ? (
        <Empty title="No prediction yet" />
      ) : (
        <>
          <ul class="bars">
            {rows.slice(0, MAX_CLASSES).map((row) => (
              <li key={row.name}>
                <span class="name" title={row.name}>
                  {row.name}
                </span>
                <span class="track">
                  <span class="bar-fill tone-1" style={{ width: `${(row.live / most) * 100}%` }} />
                  {row.baseline !== undefined && <span class="mark" style={{ left: `calc(${(row.baseline / most) * 100}% - 1px)` }} title={`${format.share(row.baseline, 1)} in the training data`} />}
                </span>
                <span class="number">
                  {format.share(row.live, 1)}
                  {row.baseline !== undefined && <span class="visually-hidden"> live, {format.share(row.baseline, 1)} in the training data</span>}
                </span>
              </li>
            ))}
          </ul>
          {rows.length > MAX_CLASSES && <p class="muted small">{rows.length - MAX_CLASSES} more classes</p>}
          {rows.some((row) => row.baseline !== undefined) && (
            <ul class="legend" aria-hidden="true">
              <li>
                <span class="swatch tone-1" /> live
              </li>
              <li>
                <span class="swatch" style={{ width: "2px", height: "16px", background: "var(--text)" }} /> training data
              </li>
            </ul>
          )}
        </>
      )}
    </Card>
  );
}

function Part({ part, title }: { part: FeatureDrift; title?: string }) {
  const bins = part.bins
    .filter((bin) => !["below", "above", "missing", "other"].includes(bin.bin) || bin.window_count > 0 || bin.baseline_count > 0)
    .map((bin) => ({ name: Number.isFinite(Number(bin.bin)) ? `≤ ${format.number(Number(bin.bin))}` : bin.bin, live: bin.window_ratio ?? 0, baseline: bin.baseline_ratio ?? undefined }));
  return (
    <Card title={title ?? format.capital(part.name)} class="span-6">
      <Histogram label={title ?? part.name} bins={bins} />
    </Card>
  );
}

function Confidence({ version }: { version: VersionPredictions }) {
  const total = version.confidence.reduce((all, one) => all + one.count, 0);
  const part = version.parts.find((one) => one.name === "confidence");
  if (version.confidence.length === 0 && !part) return null;
  return (
    <Card title="Confidence" note="how sure the version is, since the load" class="span-6">
      {total === 0 ? (
        <Empty title="No prediction yet" />
      ) : (
        <Histogram
          label="Confidence of the predictions"
          bins={version.confidence.map((one, index) => ({ name: `${format.number((version.confidence[index - 1]?.upto ?? 0) * 100, 2)}–${format.number(one.upto * 100, 2)} %`, live: one.count / total }))}
          names={["predictions", ""]}
        />
      )}
    </Card>
  );
}

function NoOutcomes() {
  return (
    <Empty title="No outcomes yet">
      <p>Send the true outcome of a prediction with its id:</p>
      <Command>{`curl SERVER/feedback -H 'content-type: application/json' -d '{"feedback": [{"prediction_id": "...", "label": 6}]}'`}</Command>
    </Empty>
  );
}

function CalibrationCard({ version }: { version: VersionPredictions }) {
  if (version.confidence.length === 0) return null;
  const bins = version.calibration.flatMap((bin) =>
    bin.count > 0 && typeof bin.confidence === "number" && typeof bin.accuracy === "number" ? [{ count: bin.count, confidence: bin.confidence, accuracy: bin.accuracy }] : [],
  );
  return (
    <Card title="Calibration" note="on the dashed line, it is right as often as it is sure" class="span-6">
      {bins.length === 0 ? <NoOutcomes /> : <Calibration bins={bins} />}
    </Card>
  );
}

function Confusion({ version }: { version: VersionPredictions }) {
  const confusion = version.confusion;
  if (version.confidence.length === 0 && !confusion) return null;
  const total = confusion?.counts.flat().reduce((all, one) => all + one, 0) ?? 0;
  return (
    <Card title="Confusion" note="rows: true class, columns: predicted" class="span-6">
      {!confusion || total === 0 ? (
        <NoOutcomes />
      ) : (
        <div class="scroll" tabIndex={0} role="region" aria-label="Confusion matrix">
          <table class="matrix">
            <caption class="visually-hidden">Number of predictions by true class (rows) and predicted class (columns)</caption>
            <thead>
              <tr>
                <td />
                {confusion.classes.map((name) => (
                  <th scope="col" key={name}>
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {confusion.counts.map((row, index) => {
                const rowTotal = row.reduce((all, one) => all + one, 0);
                return (
                  <tr key={confusion.classes[index]}>
                    <th scope="row">{confusion.classes[index]}</th>
                    {row.map((value, column) => {
                      const share = rowTotal === 0 ? 0 : value / rowTotal;
                      const right = index === column;
                      const tone = value === 0 ? "" : right ? "hit" : "miss";
                      return (
                        <td key={confusion.classes[column]} class={`${tone} ${share > 0.4 ? "heavy" : ""} ${right ? "right" : ""}`}>
                          {value === 0 ? <span class="muted">·</span> : format.short(value)}
                        </td>
                      );
                    })}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      )}
    </Card>
  );
}

function ByClass({ version }: { version: VersionPredictions }) {
  const known = version.by_class.filter((one) => one.actual > 0 || one.predicted > 0);
  if (known.length === 0 || (version.outcomes?.labels ?? 0) === 0) return null;
  return (
    <Card title="By class" note="of the predictions with an outcome" class="span-12" flush>
      <div class="scroll" tabIndex={0} role="region" aria-label="Precision and recall by class">
        <table class="table">
          <thead>
            <tr>
              <th scope="col">Class</th>
              <th scope="col" class="number">
                True
              </th>
              <th scope="col" class="number">
                Predicted
              </th>
              <th scope="col" class="number">
                Precision
              </th>
              <th scope="col" class="number">
                Recall
              </th>
            </tr>
          </thead>
          <tbody>
            {known.slice(0, MAX_CLASSES).map((one) => (
              <tr key={one.class}>
                <th scope="row">{one.class}</th>
                <td class="number">{format.short(one.actual)}</td>
                <td class="number">{format.short(one.predicted)}</td>
                <td class="number">{format.share(one.precision, 1)}</td>
                <td class="number">{format.share(one.recall, 1)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Card>
  );
}
