import { defineConfig } from "@playwright/test";

// The suite runs against a server that is already there:
//   CONSOLE_URL=http://127.0.0.1:8081/console/ CONSOLE_DATA_URL=http://127.0.0.1:8080 CONSOLE_TOKEN=... npm test
export default defineConfig({
  testDir: "tests",
  outputDir: process.env.CONSOLE_RESULTS ?? "node_modules/.results",
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  timeout: 30_000,
  expect: { timeout: 8_000 },
  reporter: [["list"]],
  globalSetup: "./tests/traffic.ts",
  use: {
    baseURL: process.env.CONSOLE_URL ?? "http://127.0.0.1:8081/console/",
    viewport: { width: 1280, height: 800 },
    launchOptions: {
      executablePath: process.env.LEEWAY_CHROMIUM ?? "/usr/bin/chromium",
      // Within a container there is often no user namespace for the browser's sandbox. It opens pages of this server only.
      args: ["--no-sandbox", "--disable-dev-shm-usage"],
    },
  },
});
