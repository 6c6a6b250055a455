// Numbers, times and shares as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(value: number): string {
  return whole.format(value);
}

export function short(value: number): string {
  return Math.abs(value) < 10_000 ? whole.format(value) : compact.format(value);
}

/** A number with about three digits. */
export function number(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return whole.format(value);
  return String(Number(value.toPrecision(digits)));
}

export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value >= 10_000) return `${number(value / 1000)} s`;
  if (value < 0.01) return value === 0 ? "0 ms" : "< 0.01 ms";
  return `${value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

/** A share between 0 and 1 as percent. */
export function share(value: number | null | undefined, digits?: number): string {
  return value === null || value === undefined || !Number.isFinite(value) ? "–" : percent(value * 100, digits);
}

export function percent(value: number, digits = value > 0 && value < 10 && value % 1 !== 0 ? 1 : 0): string {
  return `${value.toFixed(digits)} %`;
}

/** A rate per second. */
export function rate(value: number | undefined): string {
  if (value === undefined || !Number.isFinite(value)) return "–";
  return value >= 100 ? short(Math.round(value)) : value.toFixed(value >= 10 || value === 0 ? 0 : 1);
}

/** A factor of evidence. */
export function factor(value: number): string {
  if (!Number.isFinite(value)) return "∞";
  if (value >= 1e6 || (value > 0 && value < 1e-3)) return `10^${Math.log10(value).toFixed(1)}`;
  return value >= 100 ? count(value) : number(value, 2);
}

export function duration(milliseconds: number): string {
  const seconds = Math.max(0, milliseconds) / 1000;
  const units: [number, string][] = [
    [86_400, "d"],
    [3600, "h"],
    [60, "min"],
  ];
  for (const [length, unit] of units) {
    if (seconds >= length * 1.5 || (seconds >= length && seconds % length === 0)) {
      const value = seconds / length;
      return `${value < 10 && value % 1 !== 0 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} ${unit}`;
    }
  }
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${Math.round(seconds)} s`;
}

export function ago(time: string | number): string {
  const since = Date.now() - (typeof time === "number" ? time : Date.parse(time));
  return since < 2000 ? "just now" : `${duration(since)} ago`;
}

export function clock(time: string | number): string {
  const date = new Date(time);
  const pad = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

/** The first twelve digits of a digest, which are enough to tell digests apart. */
export function digest(sha256: string): string {
  return sha256.slice(0, 12);
}

/** A name of the API as words: `not_worse` → `not worse`. */
export function words(name: string): string {
  return name.replace(/[_-]/g, " ");
}

export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const DONE: Record<string, string> = {
  discover: "first seen",
  traffic: "traffic changed",
  promote: "promoted",
  rollback: "rolled back",
  file: "deployment.toml changed",
  shadow: "shadow traffic changed",
};

/** The change that led to a deployment, as what was done. */
export function done(action: string): string {
  return DONE[action] ?? words(action);
}

/** Shares as the commands write them: `2=90 3=10`. */
export function split(shares: Record<string, number>): string {
  return Object.entries(shares)
    .filter(([, value]) => value > 0)
    .map(([version, value]) => `${version}=${Number(value.toFixed(2))}`)
    .join(" ");
}
