/** The npm package as it is installed: its files, its size, its imports, its types, and a Vite build with it. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";
import { build as buildWithVite } from "vite";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CLIENT = here("../../client_demo/paidup_demo/sdk");
const EXAMPLES = here("../../client_demo/paidup_demo/examples");
const TSC = here("node_modules/typescript/bin/tsc");
const NPM = join(dirname(process.execPath), "../lib/node_modules/npm/bin/npm-cli.js");
const read = (...path) => readFileSync(join(...path), "utf8");
const manifest = JSON.parse(read(CLIENT, "package.json"));

let shop; // a Vite project in which the packed package is installed
let installed;

/** Installs another package of ours in the project. */
function link(name) {
  mkdirSync(dirname(join(shop, "node_modules", name)), { recursive: true });
  symlinkSync(here(`node_modules/${name}`), join(shop, "node_modules", name));
}

/** @param {string} cwd */
const npm = (cwd, ...args) =>
  execFileSync(process.execPath, [NPM, ...args, "--offline", "--no-update-notifier", `--cache=${join(shop, "cache")}`], {
    cwd, encoding: "utf8", stdio: "pipe",
  });

before(() => {
  shop = mkdtempSync(join(tmpdir(), "paidup-shop-"));
  writeFileSync(join(shop, "package.json"), '{"name": "shop", "private": true, "type": "module"}');
  const packed = npm(CLIENT, "pack", "--json", `--pack-destination=${shop}`);
  const { filename } = Object.values(JSON.parse(packed)).at(0);
  npm(shop, "install", "--no-audit", "--no-fund", join(shop, filename.replace("@", "").replace("/", "-")));
  installed = join(shop, "node_modules/@paidup/client");
  for (const name of ["react", "csstype", "@types/react"]) link(name);
});
after(() => rmSync(shop, { recursive: true }));

/** @returns {string} the compiler's errors */
function compile(...flags) {
  try {
    return execFileSync(process.execPath, [TSC, ...flags], { encoding: "utf8", cwd: shop });
  } catch (error) {
    return error.stdout;
  }
}

/** Bytes of a module with its imports, minified and gzipped. */
async function weight(entry, external = []) {
  const { outputFiles } = await build({
    entryPoints: [join(CLIENT, entry)], bundle: true, minify: true, format: "esm", target: "es2022", write: false, external,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

test("the client is below 5,000 bytes, minified and gzipped; the element below 10,000 with it", async () => {
  assert.ok((await weight("paidup.js")) < 5_000);
  assert.ok((await weight("element/activation.js")) < 10_000);
  assert.ok((await weight("react.js", ["react"])) < 5_200);
  assert.ok((await weight("entitlements.js")) < 1_000);
});

test("the package contains the client, its licence and its types, and nothing of the demo", () => {
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1));
  assert.deepEqual(files.sort(), [
    "LICENSE", "README.md", "element/activation.js", "element/look.js", "element/words.js", "entitlements.js", "package.json", "paidup.js",
    "react.js", "types/element/activation.d.ts", "types/element/index.d.ts", "types/element/look.d.ts",
    "types/element/words.d.ts", "types/entitlements.d.ts", "types/paidup.d.ts", "types/react.d.ts",
  ]);
  assert.equal(read(installed, "LICENSE"), read(CLIENT, "../../../LICENSE"));
  assert.equal(manifest.name, "@paidup/client");
  assert.ok(read(CLIENT, "../../../pyproject.toml").includes(`\nversion = "${manifest.version}"\n`));
});

test("it has no dependencies; React is optional", () => {
  assert.deepEqual([manifest.dependencies, manifest.peerDependenciesMeta], [undefined, { react: { optional: true } }]);
});

test("it can be imported without a page, as in server-side rendering", async () => {
  const script = join(shop, "import.mjs");
  writeFileSync(script, `
    export const client = Object.keys(await import("@paidup/client")).sort();
    export const element = Object.keys(await import("@paidup/client/element")).sort();
    export const react = Object.keys(await import("@paidup/client/react")).sort();`);
  const { client, element, react } = await import(pathToFileURL(script).href);
  assert.deepEqual(client, ["Activation", "ActivationError", "BalanceWatch", "activate", "backoff", "watchBalance"]);
  assert.deepEqual([element, react], [["PaidupActivation"], ["useActivation"]]);
});

test("its hook is a client module of React's server components, as Next.js reads it", () => {
  // https://react.dev/reference/rsc/use-client: at the very beginning, comments apart
  const code = read(installed, "react.js").replace(/\/\*[^]*?\*\/|\/\/.*/g, "");
  assert.match(code, /^\s*"use client";/);
});

test("a Vite project builds with it, and the build runs", async () => {
  writeFileSync(join(shop, "index.html"), '<!doctype html><script type="module" src="/main.js"></script>');
  writeFileSync(join(shop, "main.js"), `
    import { activate } from "@paidup/client";
    import { PaidupActivation } from "@paidup/client/element";
    globalThis.built = { activate, PaidupActivation };`);
  await buildWithVite({ root: shop, configFile: false, logLevel: "silent", build: { modulePreload: false } });
  const [script] = readdirSync(join(shop, "dist/assets")).filter((name) => name.endsWith(".js"));
  await import(pathToFileURL(join(shop, "dist/assets", script)).href);
  assert.equal(typeof globalThis.built.activate, "function");
  assert.equal(globalThis.built.PaidupActivation.observedAttributes.includes("invoice"), true);
  assert.match(read(shop, "dist/assets", script), /paidup-activation/);
});

test("the types match the JSDoc: `tsc -p tests/node/tsconfig.types.json` writes them", () => {
  const made = join(shop, "types");
  assert.equal(compile("-p", here("tsconfig.types.json"), "--outDir", made), "");
  for (const path of ["paidup.d.ts", "entitlements.d.ts", "react.d.ts", ...["activation", "look", "words"].map((name) => `element/${name}.d.ts`)])
    assert.equal(read(CLIENT, "types", path), read(made, path), path);
});

const STRICT = ["--strict", "--noEmit", "--module", "nodenext", "--lib", "es2024,dom,dom.asynciterable", "--types", ""];

test("strict TypeScript and TSX pages compile against the package", () => {
  for (const name of ["consumer.ts", "consumer.tsx"]) cpSync(here(name), join(shop, name));
  assert.equal(compile(...STRICT, "--jsx", "react-jsx", "consumer.ts", "consumer.tsx"), "");
});

test("the element's types need no React", () => {
  const page = mkdtempSync(join(tmpdir(), "paidup-page-"));
  try {
    cpSync(installed, join(page, "node_modules/@paidup/client"), { recursive: true });
    writeFileSync(join(page, "package.json"), '{"type": "module"}');
    const code = 'import "@paidup/client/element"; document.querySelector("paidup-activation")?.confirmed("succeeded");';
    writeFileSync(join(page, "page.ts"), code);
    assert.equal(compile(...STRICT, join(page, "page.ts")), "");
  } finally {
    rmSync(page, { recursive: true });
  }
});

test("the TypeScript example compiles against the package", () => {
  cpSync(EXAMPLES, join(shop, "examples"), { recursive: true });
  cpSync(here("frameworks.d.ts"), join(shop, "frameworks.d.ts"));
  const flags = ["--jsx", "react-jsx", "--allowJs", "frameworks.d.ts", "examples/react-element.tsx"];
  assert.equal(compile(...STRICT, ...flags), "");
});

test("without a WebSocket, as in Node.js 20, it polls", async () => {
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  try {
    const { activate } = await import(pathToFileURL(join(installed, "paidup.js")).href);
    const seen = { type: "status", invoice: "in_1", version: 2, status: "active", stage: "active" };
    const asked = [];
    const fetch = async (url) => {
      asked.push(new URL(url).pathname);
      return Response.json(seen);
    };
    const activation = activate({ invoice: "in_1", ticket: "t", baseUrl: "http://paidup.test", seams: { fetch } });
    assert.equal((await activation.finished).status, "active");
    assert.deepEqual(asked, ["/api/invoices/in_1/events", "/api/invoices/in_1"]);
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

test("the demo's JavaScript passes the strict type check", () => {
  assert.equal(compile("-p", here("tsconfig.json")), "");
});
