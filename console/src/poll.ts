// Polling: while the page is visible, one request in flight, a backoff after errors.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./request";

export const POLL_MS = 2000;
const MAX_BACKOFF_MS = 30_000;

export interface Polled<T> {
  data: T | undefined;
  /** The last error; `data` is then from before it. */
  error: ApiError | undefined;
  /** Time of the last answer, in milliseconds. */
  at: number | undefined;
  /** Asks again at once. */
  refresh: () => void;
}

/**
 * Returns what `load` returns, again every `everyMs`. `key` names what is loaded: another key discards the data and the
 * request in flight.
 */
export function usePoll<T>(key: string, load: (signal: AbortSignal) => Promise<T>, everyMs = POLL_MS): Polled<T> {
  const [state, setState] = useState<{ key: string; data?: T; error?: ApiError; at?: number }>({ key });
  const latest = useRef(load);
  latest.current = load;
  const again = useRef<() => void>(() => {});

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let inFlight: AbortController | undefined;
    let failures = 0;
    let ended = false;
    let asked = false;

    const schedule = (ms: number) => {
      clearTimeout(timer);
      if (!ended && document.visibilityState === "visible") timer = setTimeout(run, ms);
    };
    const run = async () => {
      clearTimeout(timer);
      if (inFlight) {
        asked = true;
        return;
      }
      const controller = new AbortController();
      inFlight = controller;
      try {
        const data = await latest.current(controller.signal);
        if (ended) return;
        failures = 0;
        setState({ key, data, at: Date.now() });
      } catch (error) {
        if (ended || controller.signal.aborted) return;
        failures += 1;
        const shown =
          error instanceof ApiError
            ? error
            : new ApiError(0, "Unreadable answer", String(error), undefined, undefined);
        setState((before) => (before.key === key ? { ...before, error: shown } : { key, error: shown }));
      } finally {
        inFlight = undefined;
      }
      const now = asked;
      asked = false;
      schedule(now ? 0 : Math.min(everyMs * 2 ** failures, Math.max(MAX_BACKOFF_MS, everyMs)));
    };
    const onVisibility = () => {
      if (document.visibilityState === "visible") void run();
      else clearTimeout(timer);
    };

    again.current = () => void run();
    document.addEventListener("visibilitychange", onVisibility);
    void run();
    return () => {
      ended = true;
      clearTimeout(timer);
      inFlight?.abort();
      document.removeEventListener("visibilitychange", onVisibility);
    };
  }, [key, everyMs]);

  const refresh = useCallback(() => again.current(), []);
  return state.key === key
    ? { data: state.data, error: state.error, at: state.at, refresh }
    : { data: undefined, error: undefined, at: undefined, refresh };
}
