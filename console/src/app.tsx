// The frame of all pages: the bar at the top, the sign-in form, and the page that the address names.

import { useEffect, useRef, useState } from "preact/hooks";
import { get } from "./request";
import { Alerts, useAlerts } from "./pages/alerts";
import { Fleet } from "./pages/fleet";
import { ModelPage } from "./pages/model";
import { Models } from "./pages/models";
import { SignIn } from "./pages/sign-in";
import { VersionPage } from "./pages/version";
import { type Route, TABS, useRoute } from "./route";
import { session, useSession } from "./session";
import { apply, type Theme, theme } from "./theme";
import { Toasts } from "./toast";
import { Empty } from "./ui";
import type { Alerts as AlertList } from "./wire";

export function App() {
  const signedIn = useSession();
  return (
    <>
      {signedIn.kind === "closed" ? <SignIn wrong={signedIn.wrong} /> : <Console key={signedIn.token ?? ""} token={signedIn.token} />}
      <Toasts />
    </>
  );
}

function Console({ token }: { token: string | undefined }) {
  const route = useRoute();
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  const alerts = useAlerts();
  const title = titleOf(route);
  const place = JSON.stringify(route);

  useEffect(() => {
    document.title = `${title} · Leeway`;
    // A new page is read from its start.
    if (!first.current) {
      main.current?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
    first.current = false;
  }, [place]);

  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to the content
      </a>
      <header class="top">
        <div class="top-inner">
          <a class="brand" href="#/" aria-label="Leeway, all models">
            <Logo />
            Leeway
          </a>
          <nav aria-label="Console">
            <NavLink href="#/" here={route.page === "models" || route.page === "model" || route.page === "version"}>
              Models
            </NavLink>
            <NavLink href="#/alerts" here={route.page === "alerts"}>
              Alerts
              <AlertCount alerts={alerts.data} />
            </NavLink>
            <NavLink href="#/fleet" here={route.page === "fleet"}>
              Fleet
            </NavLink>
          </nav>
          <div class="top-end">
            <ThemeSwitch />
            {token !== undefined && (
              <button type="button" class="button quiet compact" onClick={session.signOut}>
                Sign out
              </button>
            )}
          </div>
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <Page route={route} alerts={alerts} />
      </main>
      <Footer />
    </>
  );
}

function Page({ route, alerts }: { route: Route; alerts: ReturnType<typeof useAlerts> }) {
  switch (route.page) {
    case "models":
      return <Models />;
    case "alerts":
      return <Alerts of={alerts} />;
    case "fleet":
      return <Fleet />;
    case "model":
      return <ModelPage key={route.model} model={route.model} tab={route.tab} />;
    case "version":
      return <VersionPage key={`${route.model}/${route.version}`} model={route.model} version={route.version} />;
    case "unknown":
      return (
        <div class="card">
          <Empty title="There is no such page" page>
            <p>
              Go to <a href="#/">all models</a>.
            </p>
          </Empty>
        </div>
      );
  }
}

function NavLink(props: { href: string; here: boolean; children: preact.ComponentChildren }) {
  return (
    <a href={props.href} aria-current={props.here ? "page" : undefined}>
      {props.children}
    </a>
  );
}

function AlertCount({ alerts }: { alerts: AlertList | undefined }) {
  const urgent = alerts?.alerts.filter((alert) => alert.severity !== "note").length ?? 0;
  if (urgent === 0) return null;
  return (
    <span class="counter">
      {urgent}
      <span class="visually-hidden"> need attention</span>
    </span>
  );
}

const THEMES: { theme: Theme; title: string; sign: string }[] = [
  { theme: "auto", title: "as the system", sign: "◐" },
  { theme: "light", title: "light", sign: "○" },
  { theme: "dark", title: "dark", sign: "●" },
];

function ThemeSwitch() {
  const [now, setNow] = useState(theme);
  const index = THEMES.findIndex((one) => one.theme === now);
  const next = THEMES[(index + 1) % THEMES.length]!;
  const current = THEMES[index]!;
  return (
    <button
      type="button"
      class="button quiet compact"
      title={`Colours: ${current.title}. Change to ${next.title}`}
      aria-label={`Colours: ${current.title}. Change to ${next.title}`}
      onClick={() => {
        apply(next.theme);
        setNow(next.theme);
      }}
    >
      <span aria-hidden="true">{current.sign}</span>
    </button>
  );
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" aria-hidden="true">
      <rect class="brand-ground" width="32" height="32" rx="7" />
      <path class="brand-mark" d="M9 6v15a4 4 0 0 0 4 4h11" stroke-width="3.2" />
      <path class="brand-mark" d="M15 18.5c2-2.6 4-2.6 6 0" stroke-width="2.4" opacity="0.7" />
    </svg>
  );
}

function Footer() {
  const [version, setVersion] = useState<string | undefined>(undefined);
  useEffect(() => {
    void get<{ version: string }>("").then(
      (index) => setVersion(index.version),
      () => {},
    );
  }, []);
  return (
    <footer>
      <span>Leeway {version}</span>
      <a href="../docs">Admin API</a>
      <a href="../metrics">Metrics</a>
      <span>This page talks to its own server only.</span>
    </footer>
  );
}

function titleOf(route: Route): string {
  switch (route.page) {
    case "models":
      return "Models";
    case "alerts":
      return "Alerts";
    case "fleet":
      return "Fleet";
    case "model":
      return `${route.model}: ${TABS.find((tab) => tab.tab === route.tab)?.title.toLowerCase() ?? ""}`;
    case "version":
      return `${route.model} ${route.version}`;
    case "unknown":
      return "Not found";
  }
}
