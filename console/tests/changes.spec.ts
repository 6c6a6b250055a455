import { audit, confirm, expect, open, test } from "./fixtures";
import { admin } from "./server";

interface Status {
  deployment: { generation: number; stable: number; traffic: Record<string, number> };
}

async function reset(): Promise<void> {
  await admin("POST", "models/digits/promote", { version: 2, by: "tests", reason: "the state that the tests begin with" });
}

test.beforeEach(reset);
test.afterAll(reset);

test("traffic is changed, and the history says who did it and why", async ({ page }) => {
  await open(page, "#/models/digits");
  await page.getByRole("button", { name: "Change traffic…" }).click();
  const dialog = page.getByRole("dialog");
  await audit(page);

  // The other one of two versions has the rest; shares that do not come to 100 cannot be sent.
  await dialog.getByLabel("Version 1, percent").fill("12.5");
  await expect(dialog.getByLabel("Version 2, percent")).toHaveValue("87.5");
  await dialog.getByLabel("Version 1, percent").fill("1000");
  await expect(dialog).toContainText("has to be 0 to 100");
  await expect(dialog.getByRole("button", { name: "Change traffic" })).toBeDisabled();
  await dialog.getByLabel("Version 1, percent").fill("25");

  // A reason is needed.
  await confirm(page, "Change traffic");
  await expect(dialog).toContainText("Give a reason");
  await expect(dialog.getByLabel("Reason")).toBeFocused();
  await confirm(page, "Change traffic", "is the old one as good?");
  await expect(dialog).toHaveCount(0);
  await expect(page.locator(".toasts")).toContainText("digits: 2=100 → 1=25 2=75");
  await expect(page.getByRole("img", { name: /^Traffic of digits: Version 2 75 %, stable, Version 1 25 %/ })).toBeVisible();
  await page.getByRole("button", { name: "Dismiss the message" }).click();
  await expect(page.locator(".toast")).toHaveCount(0);

  await page.getByRole("link", { name: "History" }).click();
  const newest = page.getByRole("row").nth(1);
  await expect(newest).toContainText("traffic changed");
  await expect(newest).toContainText("ada");
  await expect(newest).toContainText("is the old one as good?");
});

test("a version is promoted, and rolled back", async ({ page }) => {
  await open(page, "#/models/digits");
  await page.getByRole("button", { name: "Promote… version 1" }).click();
  await expect(page.getByRole("dialog")).toContainText("becomes the stable version");
  await audit(page);
  await confirm(page, "Promote", "as good, and smaller");
  await expect(page.getByRole("img", { name: /^Traffic of digits: Version 1 100 %, stable/ })).toBeVisible();
  await page.getByRole("button", { name: "Roll back…" }).click();
  await expect(page.getByRole("dialog")).toContainText("Version 2 gets all requests");
  await confirm(page, "Roll back", "it is not");
  await expect(page.getByRole("img", { name: /^Traffic of digits: Version 2 100 %, stable/ })).toBeVisible();
});

test("a change that is based on an old generation is refused, and says what has changed", async ({ page }) => {
  await open(page, "#/models/digits");
  await page.getByRole("button", { name: "Promote… version 1" }).click();
  await admin("PUT", "models/digits/traffic", { shares: { "1": 10, "2": 90 }, by: "grace", reason: "faster than you" });
  await confirm(page, "Promote", "too late");
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("grace made generation");
  await expect(dialog).toContainText("faster than you");
  await audit(page);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await expect(dialog).toHaveCount(0);
  expect((await admin<Status>("GET", "models/digits")).deployment.traffic).toEqual({ "1": 10, "2": 90 });
});

test("a version is unloaded and loaded", async ({ page }) => {
  await open(page, "#/models/digits");
  await page.getByRole("button", { name: "Unload… version 1" }).click();
  await confirm(page, "Unload");
  const row = page.getByRole("row").filter({ hasText: "Version 1" });
  await expect(row).toContainText("not loaded");
  await page.getByRole("button", { name: "Load… version 1" }).click();
  await confirm(page, "Load");
  await expect(row.getByText("loaded", { exact: true })).toBeVisible();
});

test("an unexpected error of a change stays in its dialog", async ({ page }) => {
  await open(page, "#/models/digits");
  await page.route("**/promote", (route) =>
    route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ title: "Journal failed", status: 503, detail: "the disk is full", request_id: "01a2-test" }) }),
  );
  await page.getByRole("button", { name: "Promote… version 1" }).click();
  await confirm(page, "Promote", "why not");
  await expect(page.getByRole("dialog")).toContainText("The disk is full.");
  await expect(page.getByRole("dialog")).toContainText("01a2-test");
});
