import { audit, confirm, expect, expectNoSidewaysScroll, open, test } from "./fixtures";
import { admin, heldOut, predict } from "./server";

test("two versions are compared, and shadow traffic is turned on and off", async ({ page }) => {
  await admin("POST", "models/digits/promote", { version: 2, by: "tests", reason: "the state that the tests begin with" });
  await open(page, "#/models/digits/compare");
  await expect(page.locator("main")).toContainText("Version 1 compared with version 2");
  await expect(page.getByRole("row").filter({ hasText: "Latency P99" })).toBeVisible();

  await page.getByRole("button", { name: "Change shadow traffic…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel(/^Copies/).fill("101");
  await expect(dialog).toContainText("0 to 100 percent");
  await dialog.getByLabel(/^Copies/).fill("100");
  await audit(page);
  await confirm(page, "Change", "does it agree?");
  await expect(page.locator("main")).toContainText("gets copies of 100 % of the requests", { timeout: 15_000 });
  const { instances } = heldOut("digits");
  await predict("digits", instances.slice(0, 40));
  await expect(page.getByRole("img", { name: /^Agreement: agree/ })).toBeVisible({ timeout: 15_000 });
  await audit(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await expectNoSidewaysScroll(page);
  await page.getByRole("button", { name: "Change shadow traffic…" }).click();
  await dialog.getByLabel(/^Copies/).fill("0");
  await confirm(page, "Change", "enough");
  await expect(dialog).toHaveCount(0);
});
