import { defineConfig } from "vite";

// The server that `npm run dev` passes the requests of the page on to.
const server = process.env.LEEWAY_URL ?? "http://127.0.0.1:8081";

export default defineConfig({
  // Relative addresses: the console works below any path, such as that of a reverse proxy.
  base: "./",
  build: {
    target: ["chrome123", "firefox121", "safari17.5"],
    // The page needs no inline script, which the Content-Security-Policy would refuse.
    modulePreload: false,
    assetsInlineLimit: 0,
    sourcemap: false,
    reportCompressedSize: true,
  },
  server: { proxy: { "/admin": server, "/openapi.json": server } },
});
