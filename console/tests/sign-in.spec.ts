import { audit, expect, expectNoSidewaysScroll, open, test } from "./fixtures";
import { TOKEN } from "./server";

test.describe("without a token", () => {
  test.use({ signedIn: false });

  test("the console asks for it, refuses a wrong one, and keeps the right one for the tab only", async ({ page }) => {
    await open(page, "#/models/digits");
    await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
    await expect(page.getByLabel("Admin token")).toBeFocused();
    await audit(page);
    await page.setViewportSize({ width: 390, height: 844 });
    await expectNoSidewaysScroll(page);

    await page.getByRole("button", { name: "Sign in" }).click();
    await expect(page.getByRole("alert")).toHaveText("Enter the admin token.");
    await page.getByLabel("Admin token").fill("not-the-token-0123456789");
    await page.keyboard.press("Enter");
    await expect(page.getByRole("alert")).toHaveText("This is not the token of this server.");
    await audit(page);

    await page.getByLabel("Admin token").fill(TOKEN);
    await page.keyboard.press("Enter");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("digits");
    expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain(TOKEN);
    await page.reload();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText("digits");

    await page.getByRole("button", { name: "Sign out" }).click();
    await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
    expect(await page.evaluate(() => JSON.stringify(sessionStorage))).not.toContain(TOKEN);
    await page.reload();
    await expect(page.getByRole("heading", { name: "Sign in" })).toBeVisible();
  });
});

test("a token that the server no longer accepts leads back to the form", async ({ page }) => {
  await open(page, "#/");
  await expect(page.getByRole("link", { name: "digits" })).toBeVisible();
  await page.route("**/admin/v1/**", (route) =>
    route.fulfill({ status: 401, contentType: "application/problem+json", body: JSON.stringify({ title: "Unauthorized", status: 401, detail: "wrong token" }) }),
  );
  await expect(page.getByRole("alert")).toHaveText(/no longer accepts the token/);
});
