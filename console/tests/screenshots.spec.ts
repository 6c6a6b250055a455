// The pictures of docs/console.md, in the folder CONSOLE_SCREENSHOTS.

import type { Page } from "@playwright/test";
import { expect, open, test } from "./fixtures";
import { admin, heldOut, predict } from "./server";

const FOLDER = process.env.CONSOLE_SCREENSHOTS ?? "";

test.skip(FOLDER === "", "CONSOLE_SCREENSHOTS names no folder");
test.setTimeout(120_000);

async function take(page: Page, name: string, height: number, width = 1180): Promise<void> {
  await page.setViewportSize({ width, height });
  await page.waitForTimeout(300);
  await page.screenshot({ path: `${FOLDER}/console-${name}.png` });
}

/** Sends requests for some seconds. */
async function traffic(seconds: number): Promise<void> {
  const { instances, labels } = heldOut("digits");
  const end = Date.now() + seconds * 1000;
  for (let from = 0; Date.now() < end; from = (from + 24) % 330) {
    await predict("digits", instances.slice(from, from + 24), labels.slice(from, from + 24));
  }
}

test("the pictures of the documentation", async ({ page }) => {
  await admin("POST", "models/digits/promote", { version: 2, by: "ada", reason: "better on the held-out digits" });
  await admin("PUT", "models/digits/traffic", { shares: { "1": 15, "2": 85 }, by: "ada", reason: "is the old one as good?" });
  await open(page, "#/models/digits/live");
  await traffic(25);
  await take(page, "live", 960);
  await open(page, "#/models/digits");
  await expect(page.getByRole("link", { name: "Version 1" }).first()).toBeVisible();
  await take(page, "versions", 560);
  await open(page, "#/models/penguins/drift");
  await expect(page.getByRole("img", { name: /^Distribution/ })).toBeVisible();
  await take(page, "drift", 800);
  await page.emulateMedia({ colorScheme: "dark" });
  await open(page, "#/models/digits/predictions");
  await expect(page.getByRole("img", { name: /^Calibration/ })).toBeVisible();
  await take(page, "predictions", 900);
  await take(page, "phone", 844, 390);
  await page.emulateMedia({ colorScheme: "light" });
  await admin("POST", "models/digits/promote", { version: 1, by: "ada", reason: "it answers faster" });
  await admin("POST", "models/digits/rollout", { version: 2, steps: [10, 25, 50, 100], step_ms: 8000, timeout_ms: 3_600_000, by: "ada", reason: "trained on November" });
  await open(page, "#/models/digits/rollouts");
  await traffic(13);
  await take(page, "rollout", 900);
  await admin("POST", "models/digits/rollout/abort", { by: "ada", reason: "the picture is taken" });
  await admin("POST", "models/digits/promote", { version: 2, by: "tests", reason: "the state that the tests begin with" });
});
