// @ts-check
/**
 * The sandbox's weather: reads and sets how well the imitated Stripe behaves.
 *
 * Shows whatever the sandbox offers; does nothing where there is no sandbox.
 */
import { call } from "./api.js";

/** @typedef {Record<string, unknown>} Conditions */

/** @type {Record<string, [label: string, unit?: string]>} */
const LABELS = {
  webhook_delay_ms: ["Webhook arrives after", "ms"],
  webhook_jitter_ms: ["give or take", "ms"],
  webhook_drop: ["Webhook never arrives"],
  webhook_duplicates: ["Extra copies of each webhook"],
  webhook_shuffle: ["Webhooks out of order"],
  api_latency_ms: ["Stripe answers after", "ms"],
  api_error_rate: ["Share of calls that fail", "0 to 1"],
  api_lost_reply_rate: ["Share of answers lost", "0 to 1"],
  api_down: ["Stripe is down"],
  rate_limited: ["Stripe refuses: too many requests"],
  affect_browser: ["The card form suffers too"],
  invoice_lag_ms: ["Invoice lags behind payment by", "ms"],
  processing_ms: ["Payment stays processing for", "ms"],
};

/** Each starts from the sandbox's own defaults. @type {[label: string, change: Conditions][]} */
const PRESETS = [
  ["Normal", {}],
  ["Webhook is a minute late", { webhook_delay_ms: 60_000 }],
  ["Webhook never comes", { webhook_drop: true }],
  ["Stripe is slow", { api_latency_ms: 2_500 }],
  ["Invoice lags behind", { invoice_lag_ms: 4_000 }],
];

/** @param {HTMLElement} panel @param {string} sandbox its address */
export async function conditions(panel, sandbox) {
  const url = `${sandbox}/sandbox/conditions`;
  const form = /** @type {HTMLFormElement} */ (panel.querySelector("form"));
  const note = /** @type {HTMLElement} */ (panel.querySelector("[data-note]"));
  const summary = /** @type {HTMLElement} */ (panel.querySelector("[data-summary]"));

  const show = (/** @type {Conditions} */ now, /** @type {string} */ name) => {
    form.replaceChildren(
      ...Object.entries(now)
        .filter(isSettable)
        .map(([key, value]) => field(key, value)),
    );
    summary.textContent = name;
  };
  const attempt = async (/** @type {() => Promise<void>} */ change) => {
    note.textContent = "";
    try {
      await change();
    } catch {
      note.textContent = "The sandbox did not answer.";
    }
  };

  for (const [name, change] of PRESETS) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = name;
    button.onclick = () =>
      attempt(async () => {
        await call("POST", `${url}/reset`, {});
        if (Object.keys(change).length) await call("POST", url, change);
        show(await call("GET", url), name);
        note.textContent = `Set: ${name}.`;
      });
    panel.querySelector("[data-presets]")?.append(button);
  }
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) =>
    attempt(async () => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      const value = input.type === "checkbox" ? input.checked : Number(input.value);
      await call("POST", url, { [input.name]: value });
      summary.textContent = "your own";
    });
  await attempt(async () => show(await call("GET", url), "as they are"));
  panel.hidden = false;
}

/** @param {[string, unknown]} entry */
const isSettable = ([, value]) => typeof value === "boolean" || typeof value === "number";

/** @param {string} key @param {unknown} value */
function field(key, value) {
  const [text, unit] = LABELS[key] ?? [key.replaceAll("_", " ")];
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.name = key;
  if (typeof value === "boolean") {
    input.type = "checkbox";
    input.checked = value;
    label.append(input, text);
  } else {
    input.type = "number";
    input.min = "0";
    input.step = key.endsWith("rate") ? "0.05" : "1";
    input.value = String(value);
    label.append(unit ? `${text} (${unit})` : text, input);
  }
  return label;
}
