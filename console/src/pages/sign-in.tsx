import { useEffect, useRef, useState } from "preact/hooks";
import { Logo } from "../app";
import { address } from "../request";
import { session } from "../session";

export function SignIn({ wrong }: { wrong: boolean }) {
  const [token, setToken] = useState("");
  const [message, setMessage] = useState(wrong ? "The server no longer accepts the token. Enter the present one." : "");
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);

  useEffect(() => {
    document.title = "Sign in · Leeway";
    field.current?.focus();
  }, []);

  const submit = async (event: Event) => {
    event.preventDefault();
    const value = token.trim();
    if (value === "") {
      setMessage("Enter the admin token.");
      return;
    }
    if (!/^[\x21-\x7e]+$/.test(value)) {
      setMessage("The token has a character that no token has: only visible ASCII characters are in one.");
      return;
    }
    setBusy(true);
    setMessage("");
    try {
      const answer = await fetch(address("admin/v1/models"), {
        headers: { authorization: `Bearer ${value}` },
        cache: "no-store",
        redirect: "error",
      });
      if (answer.status === 401) setMessage("This is not the token of this server.");
      else if (answer.status === 403) setMessage("The server has no token configured, and refuses this address of it: open the console under its IP address or localhost.");
      else session.signIn(value);
    } catch {
      setMessage("The server cannot be reached. Is it running?");
    }
    setBusy(false);
    field.current?.select();
  };

  return (
    <main class="sign-in">
      <div class="card">
        <div class="card-body">
          <div class="brand">
            <Logo />
            Leeway
          </div>
          <form class="form" onSubmit={(event) => void submit(event)} noValidate>
            <h1>Sign in</h1>
            <div class="field">
              <label for="token">Admin token</label>
              <input
                ref={field}
                id="token"
                type="password"
                autocomplete="off"
                spellcheck={false}
                value={token}
                aria-invalid={message !== ""}
                aria-describedby="token-hint token-problem"
                onInput={(event) => setToken(event.currentTarget.value)}
              />
              <span id="token-problem" class="wrong" role="alert">
                {message}
              </span>
              <span id="token-hint" class="hint">
                It is the server's <code>admin.token</code>, or <code>LEEWAY_ADMIN__TOKEN</code>. This tab forgets it when it is closed.
              </span>
            </div>
            <button class="button primary" type="submit" disabled={busy}>
              {busy ? "Asking the server…" : "Sign in"}
            </button>
          </form>
        </div>
      </div>
    </main>
  );
}
