/** The package as others get it: what is packed, what it weighs, what it imports, and what it tells TypeScript. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gzipSync } from "node:zlib";

import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CLIENT = here("../../client_demo/paidup_demo/sdk");
const TSC = here("node_modules/typescript/bin/tsc");
const NPM = join(dirname(process.execPath), "../lib/node_modules/npm/bin/npm-cli.js");
const read = (...path) => readFileSync(join(...path), "utf8");
const manifest = JSON.parse(read(CLIENT, "package.json"));

let shop; // a folder in which the package is installed
let installed;

before(() => {
  shop = mkdtempSync(join(tmpdir(), "paidup-shop-"));
  installed = join(shop, "node_modules/paidup");
  const flags = ["--json", "--offline", "--no-update-notifier", `--cache=${join(shop, "cache")}`];
  const packed = execFileSync(process.execPath, [NPM, "pack", "--dry-run", ...flags], {
    cwd: CLIENT, encoding: "utf8", stdio: "pipe",
  });
  const { files } = Object.values(JSON.parse(packed)).at(0);
  for (const { path } of files) {
    mkdirSync(dirname(join(installed, path)), { recursive: true });
    cpSync(join(CLIENT, path), join(installed, path));
  }
});
after(() => rmSync(shop, { recursive: true }));

/** @returns {string} what the compiler has to say */
function compile(...flags) {
  try {
    return execFileSync(process.execPath, [TSC, ...flags], { encoding: "utf8", cwd: shop });
  } catch (error) {
    return error.stdout;
  }
}

/** Bytes of a module and all that it imports, minified and gzipped. */
async function weight(entry, external = []) {
  const { outputFiles } = await build({
    entryPoints: [join(CLIENT, entry)], bundle: true, minify: true, format: "esm", target: "es2022", write: false, external,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

test("the client is below 4,000 bytes, minified and gzipped; the element below 8,000 with it", async () => {
  assert.ok((await weight("paidup.js")) < 4_000);
  assert.ok((await weight("element/activation.js")) < 8_000);
  assert.ok((await weight("react.js", ["react"])) < 4_500);
});

test("what is packed is the client, its licence and its types, and nothing of the demo", () => {
  const files = readdirSync(installed, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(installed.length + 1));
  assert.deepEqual(files.sort(), [
    "LICENSE", "README.md", "element/activation.js", "element/look.js", "element/words.js", "package.json", "paidup.js",
    "react.js", "types/element/activation.d.ts", "types/element/index.d.ts", "types/element/look.d.ts",
    "types/element/words.d.ts", "types/paidup.d.ts", "types/react.d.ts",
  ]);
  assert.equal(read(installed, "LICENSE"), read(CLIENT, "../../../LICENSE"));
  assert.ok(read(CLIENT, "../../../pyproject.toml").includes(`\nversion = "${manifest.version}"\n`));
});

test("it depends on nothing; React is for those who have it", () => {
  assert.deepEqual([manifest.dependencies, manifest.peerDependenciesMeta], [undefined, { react: { optional: true } }]);
});

test("it can be imported wherever there is no page, as a server that renders pages does", async () => {
  symlinkSync(here("node_modules/react"), join(shop, "node_modules/react"));
  const script = join(shop, "import.mjs");
  writeFileSync(script, `
    export const client = Object.keys(await import("paidup")).sort();
    export const element = Object.keys(await import("paidup/element")).sort();
    export const react = Object.keys(await import("paidup/react")).sort();`);
  const { client, element, react } = await import(pathToFileURL(script).href);
  assert.deepEqual(client, ["Activation", "ActivationError", "BalanceWatch", "activate", "backoff", "watchBalance"]);
  assert.deepEqual([element, react], [["PaidupActivation"], ["useActivation"]]);
});

test("the types are what its JSDoc says: `tsc -p tests/node/tsconfig.types.json` makes them", () => {
  const made = join(shop, "types");
  assert.equal(compile("-p", here("tsconfig.types.json"), "--outDir", made), "");
  for (const path of ["paidup.d.ts", "react.d.ts", ...["activation", "look", "words"].map((name) => `element/${name}.d.ts`)])
    assert.equal(read(CLIENT, "types", path), read(made, path), path);
});

test("a strict TypeScript page compiles against the package", () => {
  cpSync(here("consumer.ts"), join(shop, "consumer.ts"));
  writeFileSync(join(shop, "package.json"), '{"type": "module"}');
  const flags = ["--strict", "--noEmit", "--module", "nodenext", "--lib", "es2024,dom,dom.asynciterable", "--types", ""];
  assert.equal(compile(...flags, "consumer.ts"), "");
});

test("all of the demo's own JavaScript passes the strictest checks", () => {
  assert.equal(compile("-p", here("tsconfig.json")), "");
});
