/**
 * Builds the examples as a product would: `node build_examples.mjs FOLDER [SOURCE]` copies a Vite project, packs the
 * package, installs it, checks the types where the project has a tsconfig.json, and runs Vite.
 */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CLIENT = here("../../client_demo/paidup_demo/sdk");
const EXAMPLES = here("../../client_demo/paidup_demo/examples");
const NPM = join(dirname(process.execPath), "../lib/node_modules/npm/bin/npm-cli.js");
const INSTALLED = [
  "@stripe/react-stripe-js", "@stripe/stripe-js", "@sveltejs/vite-plugin-svelte", "@types/react", "@types/react-dom",
  "@vitejs/plugin-vue", "csstype", "react", "react-dom", "svelte", "typescript", "vite", "vue",
];

const [folder, source = EXAMPLES] = process.argv.slice(2);
const npm = (cwd, ...args) =>
  execFileSync(process.execPath, [NPM, ...args, "--offline", "--no-update-notifier", `--cache=${join(folder, "cache")}`], {
    cwd, encoding: "utf8",
  });

const project = join(folder, "project");
cpSync(source, project, { recursive: true, filter: (path) => !path.endsWith("built") });
writeFileSync(join(project, "package.json"), '{"name": "shop", "private": true, "type": "module"}');
const { filename } = Object.values(JSON.parse(npm(CLIENT, "pack", "--json", `--pack-destination=${folder}`))).at(0);
npm(project, "install", "--no-audit", "--no-fund", join(folder, filename.replace("@", "").replace("/", "-")));
for (const name of INSTALLED) {
  const place = join(project, "node_modules", name);
  mkdirSync(dirname(place), { recursive: true });
  symlinkSync(here(`node_modules/${name}`), place);
}
if (existsSync(join(project, "tsconfig.json"))) {
  const tsc = join(project, "node_modules/typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, "--project", "."], { cwd: project, stdio: "inherit" });
}
const vite = join(project, "node_modules/vite/bin/vite.js");
execFileSync(process.execPath, [vite, "build", "--logLevel=warn"], { cwd: project, stdio: "inherit" });
