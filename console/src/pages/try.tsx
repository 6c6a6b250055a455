// Sends an instance to a version, and shows the answer and the time of each stage.

import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, modelPath, send } from "../request";
import { Legend, type Segment, StackedBar } from "../charts/shares";
import * as format from "../format";
import { Card, chosen, Copy, Empty, Loading, Note, Problem, Segments, VersionChoice } from "../ui";
import type { ModelSchema, ModelStatus } from "../wire";

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

interface SchemaNode {
  type?: string | string[];
  enum?: Json[];
  anyOf?: SchemaNode[];
  properties?: Record<string, SchemaNode>;
  required?: string[];
  contentEncoding?: string;
  items?: SchemaNode;
  minItems?: number;
  maxItems?: number;
}

interface Answer {
  predictions: Json[];
  model: { name: string; version: number };
  prediction_ids: string[];
}

interface Result {
  answer: Answer;
  stages: { stage: string; ms: number }[];
  roundTripMs: number;
}

export function TryIt({ status }: { status: ModelStatus }) {
  const loaded = status.versions.filter((one) => one.state === "loaded");
  const [choice, setChoice] = useState<number | undefined>(undefined);
  const version = chosen(loaded, choice)?.version;
  const [schema, setSchema] = useState<{ version: number; schema?: ModelSchema; error?: ApiError } | undefined>(undefined);

  useEffect(() => {
    if (version === undefined) return;
    const controller = new AbortController();
    get<ModelSchema>(modelPath(status.model, `/versions/${version}/schema`), controller.signal).then(
      (found) => setSchema({ version, schema: found }),
      (error) => {
        if (error instanceof ApiError) setSchema({ version, error });
      },
    );
    return () => controller.abort();
  }, [status.model, version]);

  if (version === undefined) {
    return (
      <div class="card">
        <Empty title="No version is loaded">
          <p>Load one on the page of the versions first.</p>
        </Empty>
      </div>
    );
  }
  return (
    <>
      <div class="inline">
        <VersionChoice versions={loaded} value={version} onChange={setChoice} />
        <span class="muted small">The request counts as synthetic: it is not monitored, and not logged.</span>
      </div>
      {schema?.version !== version ? (
        <Loading what="the schema" />
      ) : schema.error ? (
        <Problem error={schema.error} what="The schema" />
      ) : (
        schema.schema && <Form key={version} model={status.model} version={version} schema={schema.schema} />
      )}
    </>
  );
}

/** Returns the properties of an instance that is an object with plain values, in the order of the example, or undefined. */
function fieldsOf(schema: SchemaNode, order: string[]): [string, SchemaNode][] | undefined {
  const place = (name: string) => (order.includes(name) ? order.indexOf(name) : order.length);
  const properties = Object.entries(schema.properties ?? {}).sort(([one], [other]) => place(one) - place(other));
  const plain = properties.every(([, node]) => kindOf(node) !== undefined);
  return properties.length > 0 && properties.length <= 60 && plain ? properties : undefined;
}

type Kind = "number" | "integer" | "string" | "boolean" | "choice";

function kindOf(node: SchemaNode): Kind | undefined {
  if (node.enum) return "choice";
  const types = ([] as string[]).concat(node.type ?? []).filter((type) => type !== "null");
  const [only] = types;
  return types.length === 1 && (only === "number" || only === "integer" || only === "string" || only === "boolean") ? only : undefined;
}

function isNullable(node: SchemaNode): boolean {
  return ([] as string[]).concat(node.type ?? []).includes("null") || (node.enum?.includes(null) ?? false);
}

function Form({ model, version, schema }: { model: string; version: number; schema: ModelSchema }) {
  const node = schema.instance as SchemaNode;
  const example = ((schema.example as { instances?: Json[] } | undefined)?.instances ?? [])[0];
  const fields = fieldsOf(node, isObject(example) ? Object.keys(example) : []);
  const [mode, setMode] = useState<"form" | "json">(fields ? "form" : "json");
  const [text, setText] = useState(() => pretty(example ?? (fields ? {} : [])));
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | undefined>(undefined);
  const [error, setError] = useState<ApiError | undefined>(undefined);
  const [result, setResult] = useState<Result | undefined>(undefined);
  const parsed = parseJson(text);
  const value = parsed.value;

  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy) return;
    if (parsed.problem !== undefined) {
      setProblem(`This is not JSON: ${parsed.problem}`);
      return;
    }
    setProblem(undefined);
    setBusy(true);
    setError(undefined);
    const start = performance.now();
    try {
      const { body, headers } = await send<Answer>("POST", modelPath(model, `/versions/${version}/try`), { instances: [value as Json] });
      setResult({ answer: body, stages: stagesOf(headers.get("server-timing") ?? ""), roundTripMs: performance.now() - start });
    } catch (failure) {
      setResult(undefined);
      setError(failure instanceof ApiError ? failure : new ApiError(0, "Unreadable answer", String(failure), undefined, undefined));
    }
    setBusy(false);
  };

  return (
    <div class="grid">
      <Card
        title="Instance"
        class="span-6"
        actions={
          fields && (
            <Segments
              label="Form of the input"
              value={mode}
              options={[
                { value: "form", title: "Form" },
                { value: "json", title: "JSON" },
              ]}
              onChange={setMode}
            />
          )
        }
      >
        <form class="form" onSubmit={(event) => void submit(event)} noValidate>
          {mode === "form" && fields && isObject(value) ? (
            <Fields fields={fields} required={node.required ?? []} value={value} onChange={(next) => setText(pretty(next))} />
          ) : (
            <>
              <PixelPad value={value} onChange={(next) => setText(pretty(next))} />
              {typeof value === "string" && (
                <div class="field">
                  <label for="text">Text</label>
                  <textarea id="text" rows={5} value={value} onInput={(event) => setText(JSON.stringify(event.currentTarget.value))} />
                </div>
              )}
              <div class="field">
                <label for="instance">The instance as JSON</label>
                <textarea
                  id="instance"
                  rows={Math.min(14, Math.max(5, text.split("\n").length + 1))}
                  value={text}
                  spellcheck={false}
                  aria-invalid={parsed.problem !== undefined}
                  aria-describedby="instance-problem"
                  onInput={(event) => setText(event.currentTarget.value)}
                />
                <span id="instance-problem" class="wrong" role="status">
                  {parsed.problem === undefined ? "" : `Not JSON yet: ${parsed.problem}`}
                </span>
              </div>
            </>
          )}
          {problem && <Note tone="bad" title={problem} />}
          <div class="actions">
            <button type="submit" class="button primary" disabled={busy}>
              {busy ? "Sending…" : "Send"}
            </button>
            {example !== undefined && (
              <button type="button" class="button" onClick={() => setText(pretty(example))}>
                Fill in the example
              </button>
            )}
          </div>
        </form>
      </Card>
      <Card title="Answer" class="span-6">
        <div aria-live="polite" class="stack">
          {error ? <Problem error={error} what="Not answered" /> : result ? <AnswerView result={result} /> : <Empty title="Send the instance to see the answer">{!schema.example && <p>There is no example of this model: fill in the instance first.</p>}</Empty>}
        </div>
        {parsed.problem === undefined && (
          <details style={{ marginTop: "14px" }}>
            <summary>The same with curl</summary>
            <div class="inline">
              <Copy text={curl(model, version, value as Json)} what="the command" />
            </div>
            <pre class="code" tabIndex={0}>
              {curl(model, version, value as Json)}
            </pre>
          </details>
        )}
      </Card>
    </div>
  );
}

function Fields(props: { fields: [string, SchemaNode][]; required: string[]; value: Record<string, Json>; onChange: (value: Record<string, Json>) => void }) {
  const set = (name: string, next: Json | undefined) => {
    const { [name]: _, ...rest } = props.value;
    props.onChange(next === undefined ? rest : Object.fromEntries(props.fields.flatMap(([key]) => (key === name ? [[key, next]] : key in rest ? [[key, rest[key]!]] : []))));
  };
  return (
    <div class="form-row">
      {props.fields.map(([name, node]) => (
        <Field key={name} name={name} node={node} required={props.required.includes(name)} value={props.value[name]} onChange={(next) => set(name, next)} />
      ))}
    </div>
  );
}

function Field(props: { name: string; node: SchemaNode; required: boolean; value: Json | undefined; onChange: (value: Json | undefined) => void }) {
  const kind = kindOf(props.node);
  const id = `field-${props.name}`;
  const optional = !props.required || isNullable(props.node);
  const empty = props.required ? null : undefined;
  const text = props.value === undefined || props.value === null ? "" : String(props.value);
  return (
    <div class="field">
      <label for={id}>{props.name}</label>
      {props.node.contentEncoding === "base64" ? (
        <input
          id={id}
          type="file"
          onChange={(event) => {
            const file = event.currentTarget.files?.[0];
            if (file) void base64(file).then(props.onChange);
          }}
        />
      ) : kind === "choice" ? (
        <select
          id={id}
          value={JSON.stringify(props.value ?? null)}
          onChange={(event) => {
            const chosenValue = JSON.parse(event.currentTarget.value) as Json;
            props.onChange(chosenValue === null ? empty : chosenValue);
          }}
        >
          {optional && <option value="null">–</option>}
          {props.node.enum!.filter((one) => one !== null).map((one) => (
            <option key={String(one)} value={JSON.stringify(one)}>
              {String(one)}
            </option>
          ))}
        </select>
      ) : kind === "boolean" ? (
        <select id={id} value={text} onChange={(event) => props.onChange(event.currentTarget.value === "" ? empty : event.currentTarget.value === "true")}>
          {optional && <option value="">–</option>}
          <option value="true">true</option>
          <option value="false">false</option>
        </select>
      ) : (
        <input
          id={id}
          value={text}
          autocomplete="off"
          inputMode={kind === "string" ? "text" : "decimal"}
          placeholder={optional ? "missing" : ""}
          onChange={(event) => {
            const typed = event.currentTarget.value;
            if (typed === "" && kind !== "string") props.onChange(empty);
            else if (typed === "" && optional) props.onChange(empty);
            else props.onChange(kind === "string" || !Number.isFinite(Number(typed)) ? typed : Number(typed));
          }}
        />
      )}
      <span class="hint">
        {props.node.contentEncoding === "base64" ? `a file; ${format.short(text.length * 0.75)} bytes are chosen` : kind === "choice" ? "" : kind}
        {optional ? `${kind === "choice" ? "" : ", "}may be missing` : ""}
      </span>
    </div>
  );
}

/** Returns the bytes of a file in base64. */
async function base64(file: File): Promise<string> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  return btoa(text);
}

/** A square of numbers as a picture to draw on. The text field beside it takes the same without a pointer. */
function PixelPad({ value, onChange }: { value: Json | undefined; onChange: (value: Json) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const numbers = Array.isArray(value) && value.every((one) => typeof one === "number") ? (value as number[]) : undefined;
  const side = numbers ? Math.sqrt(numbers.length) : 0;
  const square = numbers !== undefined && Number.isInteger(side) && side >= 4 && side <= 32;
  const most = square ? Math.max(1, ...numbers) : 1;
  const scale = useRef(1);
  scale.current = Math.max(scale.current, most);
  const drawing = useRef<number[] | undefined>(undefined);

  const paint = (pixels: number[]) => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    const cell = 168 / side;
    context.clearRect(0, 0, 168, 168);
    pixels.forEach((pixel, index) => {
      const light = Math.round((Math.max(0, pixel) / scale.current) * 255);
      context.fillStyle = `rgb(${light} ${light} ${light})`;
      context.fillRect((index % side) * cell, Math.floor(index / side) * cell, Math.ceil(cell), Math.ceil(cell));
    });
  };
  useEffect(() => {
    if (square && !drawing.current) paint(numbers);
  }, [value]);
  if (!square) return null;

  const at = (event: PointerEvent): number => {
    const box = canvas.current!.getBoundingClientRect();
    const column = Math.min(side - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * side)));
    const row = Math.min(side - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * side)));
    return row * side + column;
  };
  const draw = (event: PointerEvent) => {
    if (!drawing.current) return;
    drawing.current[at(event)] = event.shiftKey ? 0 : scale.current;
    paint(drawing.current);
  };
  const end = () => {
    if (drawing.current) onChange(drawing.current);
    drawing.current = undefined;
  };
  return (
    <div class="inline" style={{ alignItems: "flex-end" }}>
      <canvas
        ref={canvas}
        class="pixels"
        width={168}
        height={168}
        role="img"
        aria-label={`The ${numbers.length} numbers as a picture of ${side} by ${side}`}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          drawing.current = [...numbers];
          draw(event);
        }}
        onPointerMove={draw}
        onPointerUp={end}
        onPointerCancel={end}
      />
      <div class="stack" style={{ gap: "8px" }}>
        <span class="muted small">Draw with the pointer; with Shift it erases.</span>
        <span>
          <button type="button" class="button compact" onClick={() => onChange(numbers.map(() => 0))}>
            Clear
          </button>
        </span>
      </div>
    </div>
  );
}

const STAGES: Record<string, { title: string; tone: string }> = {
  net: { title: "Network", tone: "5" },
  pre: { title: "Preprocessing", tone: "3" },
  queue: { title: "Queue", tone: "2" },
  infer: { title: "Inference", tone: "1" },
  post: { title: "Postprocessing", tone: "4" },
};

/** Reads `Server-Timing`: `net;dur=0.3, pre;dur=0.2`. */
export function stagesOf(header: string): { stage: string; ms: number }[] {
  return header.split(",").flatMap((part) => {
    const match = /^\s*([^;\s]+)\s*;\s*dur=([0-9.]+)/.exec(part);
    return match ? [{ stage: match[1]!, ms: Number(match[2]) }] : [];
  });
}

function AnswerView({ result }: { result: Result }) {
  const segments: Segment[] = result.stages
    .filter((one) => one.stage in STAGES)
    .map((one) => ({ key: one.stage, title: STAGES[one.stage]!.title, tone: STAGES[one.stage]!.tone, value: one.ms, note: format.ms(one.ms) }));
  const inServer = segments.reduce((all, one) => all + one.value, 0);
  return (
    <>
      {result.answer.predictions.map((prediction, index) => (
        <Prediction key={index} prediction={prediction} />
      ))}
      {segments.length > 0 && (
        <div>
          <p class="small muted">
            {format.ms(inServer)} in the server, {format.ms(result.roundTripMs)} for this browser
          </p>
          <StackedBar label="Time by stage" segments={segments} />
          <Legend segments={segments} />
        </div>
      )}
      <details>
        <summary>The whole answer</summary>
        <pre class="code" tabIndex={0}>
          {JSON.stringify(result.answer, null, 2)}
        </pre>
      </details>
    </>
  );
}

function Prediction({ prediction }: { prediction: Json }) {
  if (isObject(prediction) && "label" in prediction && Array.isArray(prediction.top)) {
    const top = prediction.top.filter(isObject);
    return (
      <div class="stack" style={{ gap: "10px" }}>
        <div>
          <div class="answer-label">{String(prediction.label)}</div>
          {typeof prediction.confidence === "number" && <div class="muted">with a confidence of {format.share(prediction.confidence, 1)}</div>}
        </div>
        <ul class="bars">
          {top.map((one) => (
            <li key={String(one.label)}>
              <span class="name">{String(one.label)}</span>
              <span class="track">
                <span class="bar-fill tone-1" style={{ width: `${Number(one.score) * 100}%` }} />
              </span>
              <span class="number">{format.share(Number(one.score), 1)}</span>
            </li>
          ))}
        </ul>
      </div>
    );
  }
  if (isObject(prediction) && typeof prediction.value === "number") return <div class="answer-label">{format.number(prediction.value, 6)}</div>;
  return (
    <pre class="code" tabIndex={0}>
      {pretty(prediction)}
    </pre>
  );
}

function isObject(value: Json | undefined): value is Record<string, Json> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseJson(text: string): { value?: Json; problem?: string } {
  try {
    return { value: JSON.parse(text) as Json };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

/** Indented JSON; a list of plain values stays on few lines. */
function pretty(value: Json): string {
  if (Array.isArray(value) && value.every((one) => typeof one !== "object")) {
    const side = Math.sqrt(value.length);
    if (Number.isInteger(side) && side >= 4) {
      const rows = Array.from({ length: side }, (_, row) => value.slice(row * side, (row + 1) * side).map((one) => JSON.stringify(one)).join(", "));
      return `[${rows.join(",\n ")}]`;
    }
    return JSON.stringify(value);
  }
  return JSON.stringify(value, null, 2);
}

function curl(model: string, version: number, value: Json): string {
  const body = JSON.stringify({ instances: [value] }).replace(/'/g, "'\\''");
  return `curl http://SERVER:8080/v1/models/${model}/versions/${version}:predict -H 'content-type: application/json' -d '${body}'`;
}
