import { get } from "../request";
import * as format from "../format";
import { type Polled, usePoll } from "../poll";
import { modelHref, versionHref } from "../route";
import { Ago, Badge, Empty, Loaded, type Tone } from "../ui";
import type { Alert, Alerts as AlertList } from "../wire";

const ALERT_POLL_MS = 10_000;

export function useAlerts(): Polled<AlertList> {
  return usePoll("alerts", (signal) => get<AlertList>("admin/v1/alerts", signal), ALERT_POLL_MS);
}

const SEVERITIES: Record<Alert["severity"], { tone: Tone; title: string }> = {
  page: { tone: "bad", title: "Now" },
  ticket: { tone: "warn", title: "Soon" },
  note: { tone: "plain", title: "Note" },
};

export function Alerts({ of }: { of: Polled<AlertList> }) {
  return (
    <div class="stack">
      <div class="page-head">
        <div>
          <h1>Alerts</h1>
          <p class="lead">What needs attention on this server now. The rules for Prometheus watch the same, over time.</p>
        </div>
        {of.data && (
          <span class="pulse">
            <span>
              Looked at <Ago time={of.at} />
            </span>
          </span>
        )}
      </div>
      <Loaded of={of} what="the alerts">
        {({ alerts }) =>
          alerts.length === 0 ? (
            <div class="card">
              <Empty title="Nothing needs attention">
                <p>All models are served, nothing drifts, and nothing is refused.</p>
              </Empty>
            </div>
          ) : (
            <ul class="stack" aria-label="Alerts, the worst first">
              {alerts.map((alert) => (
                <AlertItem key={`${alert.alert}/${alert.model}/${alert.version}/${alert.title}`} alert={alert} />
              ))}
            </ul>
          )
        }
      </Loaded>
    </div>
  );
}

function AlertItem({ alert }: { alert: Alert }) {
  const severity = SEVERITIES[alert.severity] ?? SEVERITIES.note;
  return (
    <li class={`card note-box ${severity.tone}`}>
      <div class="stack-tight">
        <div class="inline">
          <Badge tone={severity.tone}>{severity.title}</Badge>
          <h2>{format.capital(alert.title)}</h2>
        </div>
        <p>{alert.text}</p>
        {alert.advice && <p class="muted">{alert.advice}</p>}
        <p class="inline small">
          {alert.model && <a href={modelHref(alert.model)}>{alert.model}</a>}
          {alert.model && alert.version && <a href={versionHref(alert.model, alert.version)}>version {alert.version}</a>}
          {alert.alert && (
            <span class="muted">
              <code>{alert.alert}</code>
            </span>
          )}
          {alert.runbook && (
            <span class="muted">
              docs/<code>{alert.runbook}</code>
            </span>
          )}
        </p>
      </div>
    </li>
  );
}
