// The pages of a model: their common head, and the tab that the address names.

import { get, modelPath } from "../request";
import { type Polled, usePoll } from "../poll";
import { modelHref, type ModelTab, TABS } from "../route";
import { Loaded, Problem } from "../ui";
import type { ModelStatus } from "../wire";
import { Compare } from "./compare";
import { Drift } from "./drift";
import { HistoryPage } from "./history";
import { Live } from "./live";
import { ServedBadge } from "./models";
import { Predictions } from "./predictions";
import { Rollouts } from "./rollouts";
import { TryIt } from "./try";
import { Versions } from "./versions";

const STATUS_POLL_MS = 2000;
/** The other tabs show measurements, and need the status only for the head. */
const SLOW_STATUS_POLL_MS = 10_000;

export function useStatus(model: string, tab: ModelTab): Polled<ModelStatus> {
  return usePoll(
    model,
    (signal) => get<ModelStatus>(modelPath(model), signal),
    tab === "versions" || tab === "rollouts" ? STATUS_POLL_MS : SLOW_STATUS_POLL_MS,
  );
}

export function ModelHead(props: { model: string; tab?: ModelTab; status: Polled<ModelStatus>; title?: string }) {
  return (
    <>
      <div class="page-head">
        <div>
          <div class="crumbs">
            <a href="#/">Models</a>
            {props.title !== undefined && (
              <>
                {" / "}
                <a href={modelHref(props.model)}>{props.model}</a>
              </>
            )}
          </div>
          <h1>{props.title ?? props.model}</h1>
        </div>
        {props.status.data && <ServedBadge model={props.status.data} />}
      </div>
      <nav class="tabs" aria-label={`Pages of ${props.model}`}>
        {TABS.map(({ tab, title }) => (
          <a key={tab} href={modelHref(props.model, tab)} aria-current={tab === props.tab ? "page" : undefined}>
            {title}
          </a>
        ))}
      </nav>
    </>
  );
}

export function ModelPage({ model, tab }: { model: string; tab: ModelTab }) {
  const status = useStatus(model, tab);
  if (status.error?.status === 404 && !status.data) {
    return (
      <div class="stack">
        <Problem error={status.error} what={model} />
        <p>
          Go to <a href="#/">all models</a>.
        </p>
      </div>
    );
  }
  return (
    <div class="stack">
      <ModelHead model={model} tab={tab} status={status} />
      <Tab model={model} tab={tab} status={status} />
    </div>
  );
}

function Tab({ model, tab, status }: { model: string; tab: ModelTab; status: Polled<ModelStatus> }) {
  switch (tab) {
    case "versions":
      return (
        <Loaded of={status} what="the versions">
          {(data) => <Versions status={data} refresh={status.refresh} />}
        </Loaded>
      );
    case "live":
      return <Live model={model} />;
    case "drift":
      return <Drift model={model} />;
    case "predictions":
      return <Predictions model={model} />;
    case "rollouts":
      return (
        <Loaded of={status} what="the model">
          {(data) => <Rollouts status={data} refresh={status.refresh} />}
        </Loaded>
      );
    case "compare":
      return (
        <Loaded of={status} what="the model">
          {(data) => <Compare status={data} />}
        </Loaded>
      );
    case "history":
      return <HistoryPage model={model} generation={status.data?.deployment.generation} />;
    case "try":
      return (
        <Loaded of={status} what="the model">
          {(data) => <TryIt status={data} />}
        </Loaded>
      );
  }
}
