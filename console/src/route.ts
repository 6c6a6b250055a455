// The pages, in the fragment of the address: the server has no other paths than the console's.

import { useSyncExternalStore } from "./store";

export type ModelTab = "versions" | "live" | "drift" | "predictions" | "rollouts" | "compare" | "history" | "try";

export type Route =
  | { page: "models" }
  | { page: "alerts" }
  | { page: "fleet" }
  | { page: "model"; model: string; tab: ModelTab }
  | { page: "version"; model: string; version: number }
  | { page: "unknown" };

export const TABS: { tab: ModelTab; title: string }[] = [
  { tab: "versions", title: "Versions" },
  { tab: "live", title: "Live" },
  { tab: "drift", title: "Drift" },
  { tab: "predictions", title: "Predictions" },
  { tab: "rollouts", title: "Rollouts" },
  { tab: "compare", title: "Compare" },
  { tab: "history", title: "History" },
  { tab: "try", title: "Try it" },
];

export function parse(hash: string): Route {
  const [first, model, third, fourth, ...more] = hash
    .replace(/^#\/?/, "")
    .split("?")[0]!
    .split("/")
    .filter((part) => part !== "")
    .map(decode);
  if (more.length > 0) return { page: "unknown" };
  if (first === undefined) return { page: "models" };
  if (model === undefined && (first === "alerts" || first === "fleet")) return { page: first };
  if (first !== "models" || model === undefined) return { page: "unknown" };
  if (third === "versions" && fourth !== undefined && /^[0-9]{1,10}$/.test(fourth)) {
    return { page: "version", model, version: Number(fourth) };
  }
  if (fourth !== undefined) return { page: "unknown" };
  const tab = TABS.find((candidate) => candidate.tab === (third ?? "versions"));
  return tab ? { page: "model", model, tab: tab.tab } : { page: "unknown" };
}

export function modelHref(model: string, tab: ModelTab = "versions"): string {
  return `#/models/${encodeURIComponent(model)}${tab === "versions" ? "" : `/${tab}`}`;
}

export function versionHref(model: string, version: number): string {
  return `#/models/${encodeURIComponent(model)}/versions/${version}`;
}

export function useRoute(): Route {
  return useSyncExternalStore(
    (listener) => {
      addEventListener("hashchange", listener);
      return () => removeEventListener("hashchange", listener);
    },
    () => parse(location.hash),
  );
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
