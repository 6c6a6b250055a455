// Requests before the tests, so that there is something to see: digits with their true labels, and penguins of which every
// other one has its length in centimetres, which is drift.

import { heldOut, predict } from "./server";

const IN_FLIGHT = 32;
const ROUNDS = 2;

export default async function setup(): Promise<void> {
  const digits = heldOut("digits");
  for (let start = 0; start < digits.instances.length; start += IN_FLIGHT) {
    await predict("digits", digits.instances.slice(start, start + IN_FLIGHT), digits.labels.slice(start, start + IN_FLIGHT));
  }
  const penguins = heldOut("penguins").instances.map((row, index) => {
    if (index % 2 === 0) return row;
    const { flipper_length_mm, ...rest } = row as Record<string, number>;
    return { ...rest, flipper_length_mm: typeof flipper_length_mm === "number" ? flipper_length_mm / 10 : null };
  });
  for (let round = 0; round < ROUNDS; round += 1) {
    for (let start = 0; start < penguins.length; start += IN_FLIGHT) await predict("penguins", penguins.slice(start, start + IN_FLIGHT));
  }
}
