// The server that the tests run against.

import { readFileSync } from "node:fs";

export const TOKEN = process.env.CONSOLE_TOKEN ?? "";
export const CONSOLE = process.env.CONSOLE_URL ?? "http://127.0.0.1:8081/console/";
export const DATA = process.env.CONSOLE_DATA_URL ?? "http://127.0.0.1:8080";

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Sends a request to the admin API, past the console. */
export async function admin<T = Record<string, never>>(method: string, path: string, body?: unknown): Promise<T> {
  const answer = await fetch(new URL(`../admin/v1/${path}`, CONSOLE), {
    method,
    headers: { authorization: `Bearer ${TOKEN}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as T;
}

interface HeldOut {
  instances: Json[];
  /** The true labels, as far as the file has them. */
  labels: Json[];
}

/** Rows that the models were not trained on. */
export function heldOut(model: "digits" | "penguins"): HeldOut {
  const read = JSON.parse(readFileSync(new URL(`../../tests/data/${model}_held_out.json`, import.meta.url), "utf8")) as Record<string, Json[]>;
  return { instances: read.instances!, labels: read.digits ?? [] };
}

/** Sends each instance in a request of its own, and the true labels as feedback. */
export async function predict(model: string, instances: Json[], labels: Json[] = []): Promise<void> {
  const ids = await Promise.all(
    instances.map(async (instance, index) => {
      const answer = await fetch(`${DATA}/v1/models/${model}:predict`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-routing-key": `user-${index}-${Math.random()}` },
        body: JSON.stringify({ instances: [instance] }),
      });
      const body = (await answer.json()) as { prediction_ids?: string[] };
      return body.prediction_ids?.[0];
    }),
  );
  const feedback = ids.flatMap((id, index) => (id !== undefined && labels[index] !== undefined ? [{ prediction_id: id, label: labels[index] }] : []));
  if (feedback.length === 0) return;
  await fetch(`${DATA}/feedback`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ feedback }),
  });
}
