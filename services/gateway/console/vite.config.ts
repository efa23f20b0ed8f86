import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** What everything together may weigh, compressed. */
const BUDGET_BYTES = 150_000;
const OUT_DIR = "../gateway/console_dist";

/** Fails the build when the bundle outgrows its budget. */
function budget(): Plugin {
  return {
    name: "budget",
    apply: "build",
    writeBundle(_options, bundle) {
      const sizes = Object.values(bundle).map((file) =>
        gzipSync(file.type === "chunk" ? file.code : file.source).length,
      );
      const total = sizes.reduce((sum, size) => sum + size, 0);
      this.info(`${(total / 1000).toFixed(1)} kB compressed of ${BUDGET_BYTES / 1000} kB`);
      if (total > BUDGET_BYTES) this.error(`the bundle is over its budget of ${BUDGET_BYTES / 1000} kB`);
    },
  };
}

/** Leaves a stamp for `make console`, which builds only what is stale. */
function stamp(): Plugin {
  return {
    name: "stamp",
    apply: "build",
    closeBundle() {
      const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
      writeFileSync(`${OUT_DIR}/.built`, `${version}\n`);
    },
  };
}

const gateway = process.env.FLOTILLA_URL ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [budget(), stamp()],
  // The gateway puts each response's nonce in its place.
  html: { cspNonce: "__CSP_NONCE__" },
  build: {
    outDir: OUT_DIR,
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    // A data: font or script would need a wider content security policy.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 200,
  },
  server: { proxy: { "/v1": gateway, "/auth": gateway } },
});
