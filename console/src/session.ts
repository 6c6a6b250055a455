// The admin token, which is kept for the tab only.

import { useSyncExternalStore } from "./store";

const KEY = "leeway.token";

export type SessionState =
  /** Requests are sent, with the token if there is one. */
  | { kind: "open"; token: string | undefined }
  /** The server asks for a token. `wrong` if it has refused one. */
  | { kind: "closed"; wrong: boolean };

let state: SessionState = { kind: "open", token: sessionStorage.getItem(KEY) ?? undefined };
const listeners = new Set<() => void>();

function set(next: SessionState): void {
  state = next;
  for (const listener of listeners) listener();
}

export const session = {
  token(): string | undefined {
    return state.kind === "open" ? state.token : undefined;
  },
  /** The server has answered 401 to a request with this token, or without one. */
  refused(token: string | undefined): void {
    if (state.kind === "open" && state.token !== token) return;
    if (state.kind === "closed") return;
    sessionStorage.removeItem(KEY);
    set({ kind: "closed", wrong: token !== undefined });
  },
  signIn(token: string): void {
    sessionStorage.setItem(KEY, token);
    set({ kind: "open", token });
  },
  signOut(): void {
    sessionStorage.removeItem(KEY);
    set({ kind: "closed", wrong: false });
  },
};

export function useSession(): SessionState {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => state,
  );
}
