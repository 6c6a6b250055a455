// A page that is signed in, and that must not log errors, leave its origin or violate its policy.

import { AxeBuilder } from "@axe-core/playwright";
import { test as base, expect, type Page } from "@playwright/test";
import { CONSOLE, TOKEN } from "./server";

export { expect } from "@playwright/test";

declare global {
  interface Window {
    violations?: string[];
  }
}

interface Fixtures {
  /** False for tests that begin without a token. */
  signedIn: boolean;
}

export const test = base.extend<Fixtures>({
  signedIn: [true, { option: true }],
  page: async ({ page, signedIn }, use) => {
    // Transitions would change colours while they are audited.
    await page.emulateMedia({ reducedMotion: "reduce" });
    const found: string[] = [];
    const origin = new URL(CONSOLE).origin;
    page.on("console", (message) => {
      // The browser logs each answer with an error status. The tests provoke some.
      if (["error", "warning"].includes(message.type()) && !message.text().startsWith("Failed to load resource")) found.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => found.push(`exception: ${error.message}`));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.protocol !== "data:" && url.origin !== origin) found.push(`request to ${request.url()}`);
    });
    await page.addInitScript(
      ({ token, signedIn }) => {
        window.violations = [];
        addEventListener("securitypolicyviolation", (event) => window.violations?.push(`${event.violatedDirective} ${event.blockedURI}`));
        if (signedIn && token !== "" && sessionStorage.getItem("test.begun") === null) sessionStorage.setItem("leeway.token", token);
        sessionStorage.setItem("test.begun", "yes");
      },
      { token: TOKEN, signedIn },
    );
    await use(page);
    if (!page.isClosed()) found.push(...(await page.evaluate(() => window.violations ?? [])).map((one) => `policy: ${one}`));
    expect(found).toEqual([]);
  },
});

/** Opens a page of the console. */
export async function open(page: Page, hash: string): Promise<void> {
  await page.goto(`./${hash}`);
}

/** Audits the page with axe-core. */
export async function audit(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target.join(" ")} (${node.failureSummary ?? ""})`).join("; ")}`);
  expect(told).toEqual([]);
}

/** The page must not be wider than the screen. */
export async function expectNoSidewaysScroll(page: Page): Promise<void> {
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBeLessThanOrEqual(0);
}

/** Sets the reason and the name in a dialog, and confirms it. */
export async function confirm(page: Page, action: string, reason?: string): Promise<void> {
  const dialog = page.getByRole("dialog");
  if (reason !== undefined) {
    await dialog.getByLabel("Reason").fill(reason);
    await dialog.getByLabel("Your name").fill("ada");
  }
  await dialog.getByRole("button", { name: action, exact: true }).click();
}
