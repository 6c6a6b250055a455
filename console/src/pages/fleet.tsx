import { get } from "../request";
import * as format from "../format";
import { usePoll } from "../poll";
import { modelHref } from "../route";
import { Ago, Badge, Card, Command, Empty, Loaded } from "../ui";
import type { Overview, Replica } from "../wire";

/** Age of a report at which the server may be gone: it reports every few seconds. */
const SILENT_AFTER_S = 30;

export function Fleet() {
  const overview = usePoll("overview", (signal) => get<Overview>("admin/v1/models", signal));
  return (
    <div class="stack">
      <div class="page-head">
        <div>
          <h1>Fleet</h1>
          <p class="lead">The servers that share the state of this one, and the deployment that is in effect on each.</p>
        </div>
      </div>
      <Loaded of={overview} what="the fleet">
        {(data) => (data.replicas && data.replicas.length > 0 ? <Replicas overview={data} replicas={data.replicas} /> : <Alone />)}
      </Loaded>
    </div>
  );
}

function Alone() {
  return (
    <div class="card">
      <Empty title="This server shares its state with no other">
        <p>Servers with one PostgreSQL database act as one: a change on any of them is in effect on all. Start each of them like this:</p>
        <Command>LEEWAY_STATE__URL=postgres://USER@HOST/DATABASE leeway serve</Command>
      </Empty>
    </div>
  );
}

function Replicas({ overview, replicas }: { overview: Overview; replicas: Replica[] }) {
  const newest = (model: string) =>
    Math.max(
      overview.models.find((one) => one.model === model)?.deployment.generation ?? 0,
      ...replicas.map((replica) => replica.models[model]?.generation ?? 0),
    );
  const models = overview.models.map((one) => one.model);
  const lags = (replica: Replica) => models.filter((model) => (replica.models[model]?.generation ?? 0) < newest(model));
  const lagging = replicas.filter((replica) => lags(replica).length > 0);
  const versions = new Set(replicas.map((replica) => replica.leeway));
  return (
    <>
      <dl class="tiles">
        <div class="tile">
          <dt>Servers</dt>
          <dd>{replicas.length}</dd>
        </div>
        <div class="tile">
          <dt>Behind</dt>
          <dd>
            {lagging.length}
            <div class="sub">{lagging.length === 0 ? "all have the newest deployments" : lagging.map((one) => one.name).join(", ")}</div>
          </dd>
        </div>
        <div class="tile">
          <dt>Versions of Leeway</dt>
          <dd>
            {[...versions].join(", ")}
            {versions.size > 1 && <div class="sub">an update is under way</div>}
          </dd>
        </div>
      </dl>
      <Card title="Servers" flush>
        <div class="scroll">
          <table class="table cards">
            <thead>
              <tr>
                <th scope="col">Server</th>
                <th scope="col">State</th>
                <th scope="col">Reported</th>
                <th scope="col">Started</th>
                <th scope="col">Leeway</th>
                {models.map((model) => (
                  <th scope="col" key={model}>
                    <a href={modelHref(model)}>{model}</a>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {replicas.map((replica) => {
                const behind = lags(replica);
                const problem = models.map((model) => replica.models[model]?.problem).find((one) => one);
                const silent = (replica.age_s ?? 0) > SILENT_AFTER_S;
                return (
                  <tr key={replica.id}>
                    <th scope="row">{replica.name}</th>
                    <td data-label="State">
                      {silent ? (
                        <Badge tone="bad">silent</Badge>
                      ) : behind.length > 0 ? (
                        <Badge tone="warn">behind</Badge>
                      ) : problem ? (
                        <Badge tone="bad">problem</Badge>
                      ) : (
                        <Badge tone="good">up to date</Badge>
                      )}
                      {problem && <div class="small muted">{problem}</div>}
                    </td>
                    <td data-label="Reported">{format.duration((replica.age_s ?? 0) * 1000)} ago</td>
                    <td data-label="Started">
                      <Ago time={replica.started_at} />
                    </td>
                    <td data-label="Leeway">{replica.leeway}</td>
                    {models.map((model) => {
                      const generation = replica.models[model]?.generation;
                      const late = (generation ?? 0) < newest(model);
                      return (
                        <td key={model} data-label={model}>
                          {generation === undefined ? "not served" : `generation ${generation}`}
                          {late && <span class="muted"> of {newest(model)}</span>}
                        </td>
                      );
                    })}
                  </tr>
                );
              })}
            </tbody>
          </table>
        </div>
      </Card>
    </>
  );
}
