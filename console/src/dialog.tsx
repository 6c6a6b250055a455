// Confirmation of a change, with author and reason for the history.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./request";
import * as format from "./format";
import { Note } from "./ui";
import type { Deployment } from "./wire";

const BY = "leeway.by";

export interface Signed {
  by: string;
  reason: string;
}

export interface ConfirmProps {
  title: string;
  /** The text of the button that makes the change. */
  action: string;
  danger?: boolean;
  /** Author and reason are asked for. */
  signed?: boolean;
  /** The change cannot be made yet: what is missing. */
  blocked?: string | undefined;
  children?: ComponentChildren;
  onConfirm: (signed: Signed) => Promise<void>;
  onClose: () => void;
}

export function Confirm(props: ConfirmProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [by, setBy] = useState(() => localStorage.getItem(BY) ?? "");
  const [reason, setReason] = useState("");
  const [missing, setMissing] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<ApiError | undefined>(undefined);

  useEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    if (element && !element.open) element.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);

  const submit = async (event: Event) => {
    event.preventDefault();
    if (busy || props.blocked !== undefined) return;
    if (props.signed && reason.trim() === "") {
      setMissing(true);
      dialog.current?.querySelector<HTMLElement>("#reason")?.focus();
      return;
    }
    setBusy(true);
    setError(undefined);
    if (by.trim() !== "") localStorage.setItem(BY, by.trim());
    try {
      await props.onConfirm({ by: by.trim(), reason: reason.trim() });
      props.onClose();
    } catch (problem) {
      setError(problem instanceof ApiError ? problem : new ApiError(0, "Not done", String(problem), undefined, undefined));
      setBusy(false);
    }
  };

  return (
    <dialog
      ref={dialog}
      aria-labelledby="dialog-title"
      onCancel={(event) => {
        event.preventDefault();
        if (!busy) props.onClose();
      }}
    >
      <form onSubmit={(event) => void submit(event)} noValidate>
        <h2 id="dialog-title">{props.title}</h2>
        {props.children}
        {props.signed && (
          <>
            <div class="field">
              <label for="reason">Reason</label>
              <input
                id="reason"
                name="reason"
                value={reason}
                maxLength={1000}
                autocomplete="off"
                aria-invalid={missing && reason.trim() === ""}
                aria-describedby="reason-hint"
                onInput={(event) => setReason(event.currentTarget.value)}
              />
              <span id="reason-hint" class={missing && reason.trim() === "" ? "wrong" : "hint"}>
                {missing && reason.trim() === "" ? "Give a reason: others read it in the history." : "It is kept in the history."}
              </span>
            </div>
            <div class="field">
              <label for="by">Your name</label>
              <input id="by" name="by" value={by} maxLength={100} autocomplete="off" onInput={(event) => setBy(event.currentTarget.value)} />
            </div>
          </>
        )}
        <div aria-live="assertive">{error && <Refused error={error} />}</div>
        {props.blocked !== undefined && <p class="muted small">{props.blocked}</p>}
        <div class="actions">
          <button type="button" class="button" onClick={props.onClose} disabled={busy}>
            Cancel
          </button>
          <button type="submit" class={`button primary ${props.danger ? "danger" : ""}`} disabled={busy || props.blocked !== undefined}>
            {busy ? "Working…" : props.action}
          </button>
        </div>
      </form>
    </dialog>
  );
}

function Refused({ error }: { error: ApiError }) {
  const present = error.present as Deployment | undefined;
  return (
    <Note tone="bad" title={error.title}>
      <p>{format.capital(error.detail)}.</p>
      {present?.generation !== undefined && (
        <p class="muted">
          Since you opened this, {present.by} made generation {present.generation} ({format.split(present.traffic as Record<string, number>)})
          {present.reason ? `: ${present.reason}` : ""}. Close this, look, and decide again.
        </p>
      )}
      {error.requestId !== undefined && <p class="muted small mono">request id {error.requestId}</p>}
    </Note>
  );
}
