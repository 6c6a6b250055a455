import type { ModelStatus } from "../wire";
export function Compare({ status }: { status: ModelStatus }) {
  return <p>{status.model}</p>;
}
