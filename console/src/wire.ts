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

export type ModelLive = Schemas["ModelLive"];
export type VersionLive = Schemas["VersionLive"];
export type LiveLatency = Schemas["LiveLatency"];
export type ModelPredictions = Schemas["ModelPredictions"];
export type VersionPredictions = Schemas["VersionPredictions"];
export type DriftHistory = Schemas["ModelDriftHistory"];
export type DriftMoment = Schemas["DriftMoment"];
export type Alerts = Schemas["Alerts"];
export type Alert = Schemas["Alert"];

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

// ===== shadow traffic and comparisons =====

export interface Shadow {
  version: number;
  percent: number;
}

export interface Comparison {
  model: string;
  one: ComparedVersion;
  other: ComparedVersion;
  measures: ComparedMeasure[];
}

export interface ComparedVersion {
  version: number;
  requests: Record<string, number>;
}

export interface ComparedMeasure {
  name: string;
  kind: "share" | "mean" | "seconds";
  counted: string;
  one: { value?: number | null; of: number };
  other: { value?: number | null; of: number };
  difference?: { difference: number; lower?: number | null; upper?: number | null; p_value: number; more?: number | null } | null;
  finding: "no_data" | "undecided" | "better" | "worse" | "higher" | "lower";
  explanation: string;
}
