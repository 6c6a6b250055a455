import { useEffect, useState } from "preact/hooks";
import { ApiError, get, modelPath } from "../request";
import { StackedBar, tones } from "../charts/shares";
import * as format from "../format";
import { usePoll } from "../poll";
import { Ago, Badge, Card, Empty, Loaded, Problem, type Tone } from "../ui";
import type { Deployment, History, Shares } from "../wire";

const PAGE = 25;
/** Deployments that are kept in the page. */
const MAX_SHOWN = 1000;
const HISTORY_POLL_MS = 5000;

const ACTIONS: Record<string, Tone> = { promote: "good", rollback: "warn", traffic: "accent" };

export function HistoryPage({ model, generation }: { model: string; generation: number | undefined }) {
  const newest = usePoll(
    `history/${model}`,
    (signal) => get<History>(modelPath(model, `/history?limit=${PAGE}`), signal),
    HISTORY_POLL_MS,
  );
  const [older, setOlder] = useState<Deployment[]>([]);
  const [ended, setEnded] = useState(false);
  const [error, setError] = useState<ApiError | undefined>(undefined);

  useEffect(() => {
    if (generation !== undefined) newest.refresh();
  }, [generation]);

  const more = async (before: number) => {
    setError(undefined);
    try {
      const { deployments } = await get<History>(modelPath(model, `/history?limit=${PAGE}&before=${before}`));
      setOlder((known) => [...known, ...deployments].slice(0, MAX_SHOWN));
      if (deployments.length < PAGE) setEnded(true);
    } catch (problem) {
      if (problem instanceof ApiError) setError(problem);
    }
  };

  return (
    <Loaded of={newest} what="the history">
      {({ deployments }) => {
        const oldest = deployments.at(-1)?.generation ?? 0;
        const all = [...deployments, ...older.filter((one) => one.generation < oldest)];
        const last = all.at(-1)?.generation ?? 0;
        if (all.length === 0) {
          return (
            <div class="card">
              <Empty title="No deployment yet">
                <p>The first version that is served makes the first one.</p>
              </Empty>
            </div>
          );
        }
        return (
          <>
            <Deployments deployments={all} />
            {error && <Problem error={error} what="Earlier deployments" />}
            {last > 1 && !ended && deployments.length >= PAGE && (
              <div class="inline">
                <button type="button" class="button" onClick={() => void more(last)}>
                  Earlier deployments
                </button>
              </div>
            )}
          </>
        );
      }}
    </Loaded>
  );
}

function Deployments({ deployments }: { deployments: Deployment[] }) {
  const versions = [...new Set(deployments.flatMap((one) => Object.keys(one.traffic as Shares).map(Number)))];
  const tone = tones(versions, deployments[0]?.stable);
  return (
    <Card title="Deployments" note="the newest first" flush>
      <table class="table cards">
        <thead>
          <tr>
            <th scope="col">Generation</th>
            <th scope="col">When</th>
            <th scope="col">Change</th>
            <th scope="col">Traffic</th>
            <th scope="col">By</th>
            <th scope="col">Reason</th>
          </tr>
        </thead>
        <tbody>
          {deployments.map((one) => {
            const shares = one.traffic as Shares;
            return (
              <tr key={one.generation}>
                <th scope="row">{one.generation}</th>
                <td data-label="When" class="nowrap">
                  <Ago time={one.at} />
                  <div class="small muted">{format.clock(one.at)}</div>
                </td>
                <td data-label="Change">
                  <Badge tone={ACTIONS[one.action] ?? "plain"}>{format.done(one.action)}</Badge>
                </td>
                <td data-label="Traffic">
                  <StackedBar
                    mini
                    label="Traffic"
                    total={100}
                    segments={Object.entries(shares).map(([version, value]) => ({ key: version, title: `Version ${version}`, value, tone: tone(Number(version)), note: format.percent(value) }))}
                  />{" "}
                  <span class="mono nowrap">{format.split(shares)}</span>
                </td>
                <td data-label="By">{one.by || "–"}</td>
                <td data-label="Reason">{one.reason || <span class="muted">–</span>}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Card>
  );
}
