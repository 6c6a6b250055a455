// How often the model is right when it is so sure.

import * as format from "../format";
import { useWidth } from "./histogram";

export interface CalibrationBin {
  count: number;
  confidence: number;
  accuracy: number;
}

export function Calibration({ bins }: { bins: CalibrationBin[] }) {
  const [host, full] = useWidth(480);
  const width = Math.min(full, 600);
  const height = 340;
  const [left, right, top, bottom] = [62, 12, 12, 44];
  const x = (value: number) => left + (width - left - right) * value;
  const y = (value: number) => top + (height - top - bottom) * (1 - value);
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  const points = bins.map((bin) => `${x(bin.confidence)},${y(bin.accuracy)}`).join(" ");
  const text = bins.map((bin) => `sure by ${format.share(bin.confidence)}, right in ${format.share(bin.accuracy)} of ${format.count(bin.count)}`).join("; ");
  return (
    <div ref={host}>
      <svg class="plot-svg" width={width} height={height} viewBox={`0 0 ${width} ${height}`} style={{ maxWidth: `${width}px` }} role="img" aria-label={`Calibration. ${text}`}>
        {[0, 0.25, 0.5, 0.75, 1].map((part) => (
          <g key={part}>
            <line class="grid-line" x1={left} x2={width - right} y1={y(part)} y2={y(part)} />
            <text x={left - 8} y={y(part) + 4} text-anchor="end">
              {format.share(part)}
            </text>
            <text x={x(part)} y={height - bottom + 16} text-anchor="middle">
              {format.share(part)}
            </text>
          </g>
        ))}
        <line class="axis-line" x1={x(0)} y1={y(0)} x2={x(1)} y2={y(1)} stroke-dasharray="4 4" />
        <polyline class="value-line" points={points} />
        {bins.map((bin) => (
          <circle key={bin.confidence} class="fill-1" cx={x(bin.confidence)} cy={y(bin.accuracy)} r={3 + 5 * Math.sqrt(bin.count / most)}>
            <title>
              {format.count(bin.count)} predictions: mean confidence {format.share(bin.confidence, 1)}, right in {format.share(bin.accuracy, 1)}
            </title>
          </circle>
        ))}
        <text x={(left + width - right) / 2} y={height - 6} text-anchor="middle">
          confidence
        </text>
        <text x={10} y={(top + height - bottom) / 2} text-anchor="middle" transform={`rotate(-90 10 ${(top + height - bottom) / 2})`}>
          right
        </text>
      </svg>
    </div>
  );
}
