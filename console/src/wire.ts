// The types of the admin API. Those in `api.d.ts` are generated from its OpenAPI document.

import type { components } from "./api";

type Schemas = components["schemas"];

export type Overview = Schemas["Overview"];
export type ModelStatus = Schemas["ModelStatus"];
export type VersionStatus = Schemas["VersionStatus"];
export type Deployment = Schemas["Deployment"];
export type ChangeOutcome = Schemas["ChangeOutcome"];
export type History = Schemas["History"];
export type Replica = Schemas["Replica"];
export type ModelDrift = Schemas["ModelDrift"];
export type VersionDrift = Schemas["VersionDrift"];
export type FeatureDrift = Schemas["FeatureDrift"];
export type DriftStatus = Schemas["DriftStatus"];
export type ModelSchema = Schemas["ModelSchema"];

/** Shares in percent, by version. */
export type Shares = Record<string, number>;

// ===== live =====

export interface ModelLive {
  model: string;
  at: string;
  window_s: number;
  versions: VersionLive[];
}

export interface VersionLive {
  version: number;
  stable: boolean;
  traffic_percent: number;
  uptime_s: number;
  in_flight: number;
  queue_depth: number;
  requests: Record<string, number>;
  latency: Record<string, StageLatency | undefined>;
  unanswered: Record<string, StageLatency | undefined>;
  budget: { total_ms: number; network_ms: number; preprocess_ms: number; inference_ms: number; postprocess_ms: number; tail_ms: number };
  overruns: Record<string, number>;
  shed: Record<string, number>;
  expired: Record<string, number>;
  batches: { runs: number; rows: number; sizes: { upto?: number | null; runs: number }[] };
  worker_restarts: number;
}

export interface StageLatency {
  count: number;
  sum_ms: number;
  p50_ms?: number | null;
  p95_ms?: number | null;
  p99_ms?: number | null;
}

// ===== predictions =====

export interface ModelPredictions {
  model: string;
  enabled: boolean;
  versions: VersionPredictions[];
}

export interface VersionPredictions {
  version: number;
  predictions: number;
  window_s: number;
  rows: number;
  baseline_rows?: number | null;
  classes: { class: string; count: number }[];
  parts: FeatureDrift[];
  confidence: { upto: number; count: number }[];
  calibration: { upto: number; count: number; confidence?: number | null; accuracy?: number | null }[];
  outcomes?: Outcomes | null;
  by_class: { class: string; predicted: number; actual: number; correct: number; precision?: number | null; recall?: number | null }[];
  confusion?: { classes: string[]; counts: number[][] } | null;
  business: { name: string; kind: string; value?: number | null; items: number }[];
}

export interface Outcomes {
  labels: number;
  label_coverage?: number | null;
  accuracy?: number | null;
  accuracy_interval?: { lower: number; upper: number } | null;
  accuracy_estimate?: number | null;
  brier_score?: number | null;
  calibration_error?: number | null;
  mean_absolute_error?: number | null;
  root_mean_squared_error?: number | null;
}

// ===== drift over time =====

export interface DriftHistory {
  model: string;
  versions: { version: number; points: DriftPoint[] }[];
}

export interface DriftPoint {
  at: string;
  status: DriftStatus;
  rows: number;
  features: { max_psi?: number | null; mean_psi?: number | null };
  predictions: { max_psi?: number | null; mean_psi?: number | null };
  worst: { name: string; psi?: number | null }[];
}

// ===== alerts =====

export interface Alerts {
  at: string;
  alerts: Alert[];
}

export interface Alert {
  severity: "page" | "ticket" | "note";
  alert?: string | null;
  model?: string | null;
  version?: number | null;
  title: string;
  text: string;
  runbook?: string | null;
  advice?: string | null;
}

// ===== rollouts =====

export type RolloutState = "running" | "paused" | "promoted" | "rolled_back" | "aborted" | "superseded";

export interface Rollout {
  model: string;
  number: number;
  version: number;
  stable: number;
  state: RolloutState;
  explanation: string;
  step: number;
  step_since: string;
  plan: { steps: number[]; step_ms: number; timeout_ms: number; on_timeout: "hold" | "roll_back"; shadow?: number | null };
  guardrails: GuardrailEvidence[];
  generation: number;
  started_at: string;
  ended_at?: string | null;
  events: RolloutEvent[];
}

export interface GuardrailEvidence {
  name: string;
  verdict: "no_data" | "undecided" | "not_worse" | "worse";
  stable: { trials: number; events: number };
  candidate: { trials: number; events: number };
  worse: number;
  worse_at: number;
  not_worse: number;
  not_worse_at: number;
  overdispersion: number;
  explanation: string;
}

export interface RolloutEvent {
  at: string;
  action: string;
  share: number;
  by: string;
  reason: string;
}
