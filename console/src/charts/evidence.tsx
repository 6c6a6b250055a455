// The evidence of a guardrail on a log scale: 1 in the middle says nothing, "worse" grows to the right and "not worse" to
// the left, each towards the threshold at which the rollout acts.

import * as format from "../format";
import type { GuardrailEvidence } from "../wire";
import { useWidth } from "./histogram";

export function Evidence({ guardrail }: { guardrail: GuardrailEvidence }) {
  const [host, width] = useWidth(560);
  const middle = width * 0.42;
  const [barTop, barHeight] = [14, 12];
  const leftEdge = Math.max(guardrail.not_worse_at, 2) * 2;
  const rightEdge = Math.max(guardrail.worse_at, 2) * 2;
  const part = (value: number, edge: number) => Math.min(1, Math.max(0, Math.log(Math.max(value, 1)) / Math.log(edge)));
  const leftOf = (value: number) => middle - middle * part(value, leftEdge);
  const rightOf = (value: number) => middle + (width - middle) * part(value, rightEdge);
  const label =
    `Evidence. Not worse: ${format.factor(guardrail.not_worse)} of ${format.factor(guardrail.not_worse_at)}. ` +
    `Worse: ${format.factor(guardrail.worse)} of ${format.factor(guardrail.worse_at)}.`;
  return (
    <div ref={host}>
      <svg class="evidence" width={width} height={44} viewBox={`0 0 ${width} 44`} role="img" aria-label={label}>
        <rect x={0} y={barTop} width={width} height={barHeight} rx={4} fill="var(--raised)" />
        <rect x={leftOf(guardrail.not_worse)} y={barTop} width={middle - leftOf(guardrail.not_worse)} height={barHeight} fill="var(--c1)" />
        <rect x={middle} y={barTop} width={rightOf(guardrail.worse) - middle} height={barHeight} fill="var(--c2)" />
        <line x1={middle} x2={middle} y1={barTop - 4} y2={barTop + barHeight + 4} stroke="var(--text)" stroke-width="1.5" />
        {[leftOf(guardrail.not_worse_at), rightOf(guardrail.worse_at)].map((x) => (
          <line key={x} x1={x} x2={x} y1={barTop - 4} y2={barTop + barHeight + 4} stroke="var(--text)" stroke-width="1.5" stroke-dasharray="3 2" />
        ))}
        <text x={leftOf(guardrail.not_worse_at) + 5} y={barTop - 4}>
          not worse ×{format.factor(guardrail.not_worse)}
        </text>
        <text x={rightOf(guardrail.worse_at) - 5} y={barTop - 4} text-anchor="end">
          worse ×{format.factor(guardrail.worse)}
        </text>
        <text x={leftOf(guardrail.not_worse_at)} y={42} text-anchor="middle">
          {format.factor(guardrail.not_worse_at)}
        </text>
        <text x={middle} y={42} text-anchor="middle">
          1
        </text>
        <text x={rightOf(guardrail.worse_at)} y={42} text-anchor="middle">
          {format.factor(guardrail.worse_at)}
        </text>
      </svg>
    </div>
  );
}
