/** Builds the examples as a product would: `node build_examples.mjs FOLDER` packs the package, installs it, runs Vite. */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CLIENT = here("../../client_demo/paidup_demo/sdk");
const EXAMPLES = here("../../client_demo/paidup_demo/examples");
const NPM = join(dirname(process.execPath), "../lib/node_modules/npm/bin/npm-cli.js");
const FRAMEWORKS = ["@sveltejs/vite-plugin-svelte", "@vitejs/plugin-vue", "react", "react-dom", "svelte", "vite", "vue"];

const folder = process.argv[2];
const npm = (cwd, ...args) =>
  execFileSync(process.execPath, [NPM, ...args, "--offline", "--no-update-notifier", `--cache=${join(folder, "cache")}`], {
    cwd, encoding: "utf8",
  });

const project = join(folder, "project");
cpSync(EXAMPLES, project, { recursive: true, filter: (path) => !path.endsWith("built") });
writeFileSync(join(project, "package.json"), '{"name": "shop", "private": true, "type": "module"}');
const { filename } = Object.values(JSON.parse(npm(CLIENT, "pack", "--json", `--pack-destination=${folder}`))).at(0);
npm(project, "install", "--no-audit", "--no-fund", join(folder, filename.replace("@", "").replace("/", "-")));
for (const name of FRAMEWORKS) {
  const place = join(project, "node_modules", name);
  mkdirSync(dirname(place), { recursive: true });
  symlinkSync(here(`node_modules/${name}`), place);
}
const vite = join(project, "node_modules/vite/bin/vite.js");
execFileSync(process.execPath, [vite, "build", "--logLevel=warn"], { cwd: project, stdio: "inherit" });
