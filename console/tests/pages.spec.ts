import { audit, expect, expectNoSidewaysScroll, open, test } from "./fixtures";

// Each page, and what is there once its data have come.
const PAGES: { name: string; hash: string; heading: string; there: string[] }[] = [
  { name: "models", hash: "#/", heading: "Models", there: ["digits", "penguins"] },
  { name: "versions", hash: "#/models/digits", heading: "digits", there: ["Traffic", "Version 2", "Version 1"] },
  { name: "a version", hash: "#/models/digits/versions/2", heading: "Version 2", there: ["Manifest", "scikit-learn", "Golden examples", "reproduced", "Batching", "Digests", "model.onnx"] },
  { name: "live", hash: "#/models/digits/live", heading: "digits", there: ["Where the 200 ms go", "Inference", "Throughput", "Batch sizes"] },
  { name: "drift", hash: "#/models/penguins/drift", heading: "penguins", there: ["flipper_length_mm", "drifted", "training data", "PSI"] },
  { name: "predictions", hash: "#/models/digits/predictions", heading: "digits", there: ["Class mix", "Confidence", "Calibration", "Confusion"] },
  { name: "rollouts", hash: "#/models/penguins/rollouts", heading: "penguins", there: ["Start a rollout"] },
  { name: "compare", hash: "#/models/digits/compare", heading: "digits", there: ["Version 1", "Version 2"] },
  { name: "history", hash: "#/models/digits/history", heading: "digits", there: ["Deployments", "first seen"] },
  { name: "try it, a table", hash: "#/models/penguins/try", heading: "penguins", there: ["Instance", "Send"] },
  { name: "try it, numbers", hash: "#/models/digits/try", heading: "digits", there: ["The instance as JSON", "Send"] },
  { name: "alerts", hash: "#/alerts", heading: "Alerts", there: ["needs attention"] },
  { name: "fleet", hash: "#/fleet", heading: "Fleet", there: ["server"] },
  { name: "an unknown page", hash: "#/nowhere", heading: "", there: ["There is no such page"] },
];

for (const colorScheme of ["light", "dark"] as const) {
  test.describe(`in ${colorScheme}`, () => {
    test.use({ colorScheme });

    for (const { name, hash, heading, there } of PAGES) {
      test(`${name} is complete, accessible, and fits a phone`, async ({ page }) => {
        await open(page, hash);
        if (heading !== "") await expect(page.getByRole("heading", { level: 1 })).toHaveText(heading);
        for (const text of there) await expect(page.locator("main")).toContainText(text);
        await expect(page.getByRole("status").filter({ hasText: "Loading" })).toHaveCount(0);
        if (colorScheme === "dark") await audit(page);
        await expectNoSidewaysScroll(page);
        await page.setViewportSize({ width: 390, height: 844 });
        await expectNoSidewaysScroll(page);
        if (colorScheme === "light") await audit(page);
      });
    }
  });
}

test("the theme can be chosen, and stays", async ({ page }) => {
  await page.emulateMedia({ colorScheme: "light" });
  await open(page, "#/");
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  const choice = page.getByRole("button", { name: /^Colours/ });
  await choice.click();
  await choice.click();
  await expect(choice).toHaveAccessibleName(/^Colours: dark/);
  expect(await ground()).not.toBe(light);
  await page.reload();
  expect(await ground()).not.toBe(light);
  await choice.click();
  expect(await ground()).toBe(light);
});

test("the keyboard reaches everything", async ({ page }) => {
  await open(page, "#/models/digits");
  await expect(page.getByRole("button", { name: "Change traffic…" })).toBeVisible();
  await page.keyboard.press("Tab");
  await expect(page.getByRole("link", { name: "Skip to the content" })).toBeFocused();
  await page.keyboard.press("Enter");
  await expect(page.locator("main")).toBeFocused();
  await page.getByRole("button", { name: "Change traffic…" }).focus();
  await page.keyboard.press("Enter");
  await expect(page.getByRole("dialog")).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(page.getByRole("button", { name: "Change traffic…" })).toBeFocused();
});

test("the tabs of a model lead to its pages, and a new page has the focus", async ({ page }) => {
  await open(page, "#/models/penguins");
  for (const title of ["Live", "Drift", "Predictions", "Rollouts", "Compare", "History", "Try it", "Versions"]) {
    const tab = page.getByRole("navigation", { name: "Pages of penguins" }).getByRole("link", { name: title, exact: true });
    await tab.click();
    await expect(tab).toHaveAttribute("aria-current", "page");
    await expect(page).toHaveTitle(new RegExp(`penguins: ${title.toLowerCase()}`));
    await expect(page.locator("main")).toBeFocused();
  }
  await page.getByRole("navigation", { name: "Console" }).getByRole("link", { name: "Alerts" }).click();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Alerts");
  await page.goBack();
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("penguins");
});

test("drift shows the chosen feature and the chosen window", async ({ page }) => {
  await open(page, "#/models/penguins/drift");
  await page.getByRole("button", { name: /^body_mass_g/ }).click();
  await expect(page.getByRole("heading", { name: "body_mass_g" })).toBeVisible();
  await expect(page.getByRole("img", { name: /^Distribution of body_mass_g/ })).toBeVisible();
  const asked = page.waitForRequest((request) => request.url().includes("window_s=3600"));
  await page.getByRole("button", { name: "1 h", exact: true }).click();
  await asked;
  await page.getByRole("button", { name: "Version 1" }).click();
  await expect(page.getByRole("button", { name: "Version 1" })).toHaveAttribute("aria-pressed", "true");
});
