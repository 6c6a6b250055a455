// Short messages about what has happened, which screen readers read out.

import { useSyncExternalStore } from "./store";

interface Toast {
  id: number;
  text: string;
}

const MAX_TOASTS = 3;
const SHOWN_MS = 8000;

let toasts: Toast[] = [];
let next = 1;
const listeners = new Set<() => void>();

function set(value: Toast[]): void {
  toasts = value;
  for (const listener of listeners) listener();
}

export function toast(text: string): void {
  const id = next++;
  set([...toasts, { id, text }].slice(-MAX_TOASTS));
  setTimeout(() => dismiss(id), SHOWN_MS);
}

function dismiss(id: number): void {
  set(toasts.filter((one) => one.id !== id));
}

export function Toasts() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
  );
  return (
    <div class="toasts" role="status" aria-live="polite">
      {shown.map((one) => (
        <div class="toast" key={one.id}>
          <span>{one.text}</span>
          <button type="button" class="button" onClick={() => dismiss(one.id)} aria-label="Dismiss the message">
            ✕
          </button>
        </div>
      ))}
    </div>
  );
}
