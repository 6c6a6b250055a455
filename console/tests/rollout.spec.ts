// A rollout from start to end through the console alone. The model's `model.toml` tolerates many events, so that few requests decide.

import { audit, confirm, expect, open, test } from "./fixtures";
import { admin, heldOut, predict } from "./server";

test.describe.configure({ mode: "serial" });

test.beforeAll(async () => {
  await admin("POST", "models/digits/promote", { version: 1, by: "tests", reason: "the state that rollouts begin with" });
});

test.afterAll(async () => {
  await admin("POST", "models/digits/promote", { version: 2, by: "tests", reason: "the state that the tests begin with" });
});

async function start(page: import("@playwright/test").Page, steps: string, every: string): Promise<void> {
  await page.getByRole("button", { name: "Start a rollout…" }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog.getByLabel("Version", { exact: true })).toHaveValue("2");
  await dialog.getByLabel("Steps, percent").fill("5, 50");
  await expect(dialog).toContainText("the last one is 100");
  await dialog.getByLabel("Steps, percent").fill(steps);
  await dialog.getByLabel("Each step at least").fill("soon");
  await expect(dialog).toContainText("a number with a unit");
  await dialog.getByLabel("Each step at least").fill(every);
  await confirm(page, "Start", "trained on November");
  await expect(dialog).toHaveCount(0);
}

test("is paused, resumed and aborted", async ({ page }) => {
  await open(page, "#/models/digits/rollouts");
  await start(page, "10, 100", "1h");
  const main = page.locator("main");
  await expect(main.getByText("running", { exact: true })).toBeVisible();
  await expect(page.getByRole("list", { name: "Steps" }).getByRole("listitem").first()).toContainText("10 %");
  await page.getByRole("button", { name: "Pause…" }).click();
  await confirm(page, "Pause", "lunch");
  await expect(main.getByText("paused", { exact: true })).toBeVisible();
  await audit(page);
  await page.getByRole("button", { name: "Resume…" }).click();
  await confirm(page, "Resume", "back again");
  await expect(main.getByText("running", { exact: true })).toBeVisible();
  await page.getByRole("button", { name: "Abort…" }).click();
  await audit(page);
  await confirm(page, "Abort", "not today");
  await expect(main.getByText("aborted", { exact: true })).toBeVisible();
  await expect(main).toContainText("not today");
});

test("goes from start to end by its evidence", async ({ page }) => {
  await open(page, "#/models/digits/rollouts");
  await start(page, "50, 100", "1s");
  const { instances, labels } = heldOut("digits");
  let sent = 0;
  const main = page.locator("main");
  await expect(async () => {
    const from = sent % 300;
    await predict("digits", instances.slice(from, from + 40), labels.slice(from, from + 40));
    sent += 40;
    await expect(main.getByText("promoted", { exact: true })).toBeVisible({ timeout: 300 });
  }).toPass({ timeout: 25_000, intervals: [50] });
  await expect(page.getByRole("img", { name: /^Evidence. Not worse/ }).first()).toBeVisible();
  await audit(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await audit(page);
  await page.getByRole("link", { name: "Versions", exact: true }).click();
  await expect(page.getByRole("img", { name: /^Traffic of digits: Version 2 100 %, stable/ })).toBeVisible();
});

test("can be promoted at once", async ({ page }) => {
  await admin("POST", "models/digits/promote", { version: 1, by: "tests", reason: "again" });
  await open(page, "#/models/digits/rollouts");
  await start(page, "10, 100", "1h");
  await page.getByRole("button", { name: "Promote now…" }).click();
  await confirm(page, "Promote now", "I know that it is good");
  await expect(page.locator("main").getByText("promoted", { exact: true })).toBeVisible();
  await expect(page.locator("main")).toContainText("Earlier rollouts");
  await audit(page);
});
