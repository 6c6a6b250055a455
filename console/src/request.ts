// Requests to the admin API, on the origin that the page is from, and nowhere else.

import { session } from "./session";

/** An error answer of the API, or a request without an answer (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly requestId: string | undefined,
    /** The current deployment, if the change was based on another one. */
    readonly present: unknown,
  ) {
    super(`${title}: ${detail}`);
  }
}

export interface Answer<T> {
  body: T;
  headers: Headers;
}

/** Returns the address of a path of the admin listener, relative to the page, which is at `…/console/`. */
export function address(path: string): string {
  return new URL(`../${path.replace(/^\//, "")}`, document.baseURI).href;
}

/** Sends a request, and returns the answer with its headers. */
export async function send<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer<T>> {
  const headers: Record<string, string> = { accept: "application/json" };
  const token = session.token();
  if (token !== undefined) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(address(path), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "No answer", "the server cannot be reached from this browser", undefined, undefined);
  }
  if (response.ok) return { body: (await response.json()) as T, headers: response.headers };
  const error = await problem(response);
  if (response.status === 401) session.refused(token);
  throw error;
}

/** Reads the metrics, as text. */
export async function metrics(signal?: AbortSignal): Promise<string> {
  const token = session.token();
  const response = await fetch(address("metrics"), {
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
    signal: signal ?? null,
    cache: "no-store",
    redirect: "error",
  });
  return response.ok ? response.text() : "";
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await send<T>("GET", path, undefined, signal)).body;
}

/** Reads a resource that need not be there: `undefined` for 404. */
export async function getOptional<T>(path: string, signal?: AbortSignal): Promise<T | undefined> {
  try {
    return await get<T>(path, signal);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return undefined;
    throw error;
  }
}

export async function change<T>(method: "POST" | "PUT", path: string, body: unknown): Promise<T> {
  return (await send<T>(method, path, body)).body;
}

/** Returns the path of a model in the admin API. */
export function modelPath(model: string, rest = ""): string {
  return `admin/v1/models/${encodeURIComponent(model)}${rest}`;
}

async function problem(response: Response): Promise<ApiError> {
  let body: Record<string, unknown> = {};
  try {
    const parsed: unknown = await response.json();
    if (typeof parsed === "object" && parsed !== null) body = parsed as Record<string, unknown>;
  } catch {
    // A proxy may answer with a page of its own.
  }
  const text = (name: string) => (typeof body[name] === "string" ? (body[name] as string) : undefined);
  return new ApiError(
    response.status,
    text("title") ?? `Status ${response.status}`,
    text("detail") ?? "the answer has no description of the problem; a proxy may have made it",
    text("request_id"),
    body.present,
  );
}
