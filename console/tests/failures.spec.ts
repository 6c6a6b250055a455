// What the console shows when there is nothing, and when something fails. These answers are made up: a server does not get into
// such states on demand.

import type { Page } from "@playwright/test";
import { audit, expect, expectNoSidewaysScroll, open, test } from "./fixtures";

async function answer(page: Page, path: string, body: unknown, status = 200): Promise<void> {
  await page.route(`**/admin/v1/${path}`, (route) => route.fulfill({ status, contentType: "application/json", body: JSON.stringify(body) }));
}

const at = "2026-11-28T03:00:00Z";

test("a server that cannot be reached is said, and what is shown is marked as old", async ({ page }) => {
  await open(page, "#/");
  await expect(page.getByRole("link", { name: "digits" })).toBeVisible();
  await page.route("**/admin/v1/**", (route) => route.abort());
  await expect(page.getByRole("alert")).toContainText("What is shown is old");
  await expect(page.getByRole("link", { name: "digits" })).toBeVisible();
  await audit(page);
  await page.unroute("**/admin/v1/**");
  await expect(page.getByRole("alert")).toHaveCount(0, { timeout: 15_000 });
});

test("errors of the API are shown on every page", async ({ page }) => {
  await answer(page, "**", { title: "Internal error", status: 500, detail: "a defect", request_id: "01a2-test" }, 500);
  for (const rest of ["", "fleet", "alerts", ...["", "/versions/2", "/live", "/drift", "/predictions", "/rollouts", "/compare", "/history", "/try"].map((tab) => `models/digits${tab}`)]) {
    await open(page, `#/${rest}`);
    await expect(page.getByRole("alert").first()).toContainText("A defect.");
    await expect(page.getByRole("alert").first()).toContainText("01a2-test");
  }
  await audit(page);
});

test("an answer of a proxy is shown as such", async ({ page }) => {
  await page.route("**/admin/v1/models", (route) => route.fulfill({ status: 502, contentType: "text/html", body: "<h1>Bad gateway</h1>" }));
  await open(page, "#/");
  await expect(page.getByRole("alert")).toContainText("a proxy may have made it");
});

test("an unknown model names the ones that there are", async ({ page }) => {
  await open(page, "#/models/digitz");
  await expect(page.getByRole("alert")).toContainText("digits");
  await page.getByRole("link", { name: "all models", exact: true }).click();
  await expect(page.getByRole("link", { name: "digits" })).toBeVisible();
});

test("an empty repository says how to add a model", async ({ page }) => {
  await answer(page, "models", { models: [], problems: ["models/notes is not a model: it has no model.toml"], loading: ["cats 3: verifying"] });
  await open(page, "#/");
  await expect(page.locator("main")).toContainText("leeway init model.onnx");
  await expect(page.locator("main")).toContainText("models/notes is not a model");
  await expect(page.locator("main")).toContainText("cats 3");
  await audit(page);
});

test("alerts are shown with what to do, or that there are none", async ({ page }) => {
  await answer(page, "alerts", {
    at,
    alerts: [
      { severity: "page", alert: "LeewayShedding", model: "digits", version: 2, title: "digits 2 refuses requests", text: "3.1 % of the requests were refused.", runbook: "alerts.md#requests", advice: "Start more replicas." },
      { severity: "ticket", model: "penguins", version: 2, title: "the inputs of penguins 2 have drifted", text: "flipper_length_mm" },
      { severity: "note", title: "the certificate expires in 20 days", text: "It is valid until 2026-12-18." },
    ],
  });
  await open(page, "#/alerts");
  await expect(page.getByRole("listitem").filter({ hasText: "Start more replicas." })).toContainText("alerts.md#requests");
  await expect(page.getByRole("link", { name: /^Alerts 2/ })).toBeVisible();
  await audit(page);
  await page.unrouteAll();
  await answer(page, "alerts", { at, alerts: [] });
  await page.reload();
  await expect(page.locator("main")).toContainText("Nothing needs attention");
});

test("the fleet shows who lags", async ({ page }) => {
  const replica = (name: string, generation: number, age_s: number) => ({ id: name, name, leeway: "0.1.0", started_at: at, age_s, models: { digits: { generation, problem: generation < 4 ? "the version is being loaded" : undefined } } });
  const deployment = { model: "digits", generation: 4, stable: 2, traffic: { "2": 100 }, rollback_path: [], deployed_at: {}, action: "promote", by: "ada", reason: "", at };
  await answer(page, "models", { models: [{ model: "digits", deployment, versions: [] }], problems: [], replicas: [replica("a:8081", 4, 1), replica("b:8081", 3, 2), replica("c:8081", 4, 90)] });
  await open(page, "#/fleet");
  await expect(page.getByRole("row").filter({ hasText: "b:8081" })).toContainText("behind");
  await expect(page.getByRole("row").filter({ hasText: "b:8081" })).toContainText("generation 3 of 4");
  await expect(page.getByRole("row").filter({ hasText: "c:8081" })).toContainText("silent");
  await audit(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await expectNoSidewaysScroll(page);
});

test("a version that is refused says why", async ({ page }) => {
  const version = { version: 3, state: "refused", fault: "golden", problem: "instance 2: label 7, expected 1", stable: false, traffic_percent: 0, remarks: ["the output is not normalised"] };
  await answer(page, "models/digits/versions/3", version);
  await answer(page, "models/digits/versions/3/schema", { title: "Version not found", status: 404, detail: "it is not loaded" }, 404);
  await open(page, "#/models/digits/versions/3");
  await expect(page.locator("main")).toContainText("instance 2: label 7, expected 1");
  await expect(page.locator("main")).toContainText("not reproduced");
  await audit(page);
});

test("the page polls with one request in flight, not while it is hidden, and slower after errors", async ({ page }) => {
  await page.addInitScript(() => {
    let hidden = false;
    Object.defineProperty(document, "visibilityState", { get: () => (hidden ? "hidden" : "visible") });
    addEventListener("test-visibility", (event) => {
      hidden = (event as CustomEvent<boolean>).detail;
      document.dispatchEvent(new Event("visibilitychange"));
    });
  });
  const hide = (hidden: boolean) => page.evaluate((detail) => dispatchEvent(new CustomEvent("test-visibility", { detail })), hidden);
  let [asked, inFlight, most, fail] = [0, 0, 0, false];
  await page.route("**/admin/v1/models", async (route) => {
    asked += 1;
    inFlight += 1;
    most = Math.max(most, inFlight);
    if (fail) await route.fulfill({ status: 500, body: "{}" });
    else await route.continue();
    inFlight -= 1;
  });
  await page.clock.install();
  await open(page, "#/");
  await expect(page.getByRole("link", { name: "digits" })).toBeVisible();
  const askedIn = async (milliseconds: number) => {
    const before = asked;
    for (let passed = 0; passed < milliseconds; passed += 500) {
      await page.clock.runFor(500);
      await page.waitForTimeout(15);
    }
    return asked - before;
  };
  const visible = await askedIn(10_000);
  expect(visible).toBeGreaterThanOrEqual(3);
  expect(visible).toBeLessThanOrEqual(6);
  await hide(true);
  expect(await askedIn(10_000)).toBeLessThanOrEqual(1);
  await hide(false);
  await expect.poll(() => askedIn(500)).toBe(0);
  fail = true;
  expect(await askedIn(30_000)).toBeLessThanOrEqual(6);
  expect(most).toBe(1);
});
