// @ts-check
/**
 * The fault panel: presets, buttons that inject a fault, and a form for each of the sandbox's conditions.
 *
 * Some conditions start only with the payment, because a plan could not be chosen under them. Some faults start when
 * the payment is confirmed. The panel shows what the sandbox offers, and stays hidden where there is no sandbox.
 */
import { call } from "../lib/api.js";

/** @typedef {Record<string, unknown>} Conditions */
/** @typedef {"close"|"restart"|"redis"} PaymentFault */
/**
 * `now` is set immediately; `paying` from the submission of the card form until the purchase is settled; `fault` is
 * injected when the bank has confirmed.
 * @typedef {{name: string, why: string, now?: Conditions, paying?: Conditions, fault?: PaymentFault}} Preset
 */
/** @typedef {(type: string) => Promise<unknown>} InjectFault requests a fault from the demo's server */

const RESTORE_AFTER_MS = 30_000;
const FAULT_DELAY_MS = { restart: 400, redis: 0, close: 0 }; // the restart then falls into the request to Stripe

/** @type {Record<string, Record<string, [label: string, unit?: string]>>} */
const GROUPS = {
  Webhooks: {
    webhook_delay_ms: ["Webhook arrives after", "ms"],
    webhook_jitter_ms: ["Webhook delay varies by", "ms"],
    webhook_duplicates: ["Extra copies of each webhook"],
    webhook_drop: ["Webhook never arrives"],
    webhook_shuffle: ["Webhooks out of order"],
  },
  "Stripe’s answers": {
    api_latency_ms: ["Stripe answers after", "ms"],
    api_error_rate: ["Share of calls that fail", "0 to 1"],
    api_lost_reply_rate: ["Share of answers lost", "0 to 1"],
    rate_limited: ["Stripe answers 429 (rate limit)"],
    api_down: ["Stripe is down"],
    affect_browser: ["Also affects the card form"],
  },
  Payments: {
    invoice_lag_ms: ["Invoice lags behind payment by", "ms"],
    processing_ms: ["Payment stays processing for", "ms"],
    refund_pending: ["Refunds stay pending"],
  },
};

/** @type {Preset[]} */
const PRESETS = [
  {
    name: "Normal",
    why: "Stripe’s webhook takes some seconds, as in life. Verification does not wait for it.",
    now: { webhook_delay_ms: 5000 }, // as the demo starts: supervisor.py
  },
  { name: "Webhook at once", why: "Verification and webhook arrive within milliseconds of each other; either may be first." },
  {
    name: "Webhook is a minute late",
    why: "Waiting for it would lock out a customer who has paid. Verification does not wait.",
    now: { webhook_delay_ms: 60_000 },
  },
  { name: "Webhook is lost", why: "The event never arrives, and the credits do not depend on it.", now: { webhook_drop: true } },
  {
    name: "Webhooks twice, out of order",
    why: "Stripe delivers at least once and in any order. The credits are granted once.",
    now: { webhook_duplicates: 1, webhook_shuffle: true, webhook_delay_ms: 300 },
  },
  {
    name: "Tab closed after paying",
    why: "No page is open and no webhook arrives. The reconciler finds the payment within a minute.",
    now: { webhook_drop: true },
    fault: "close",
  },
  {
    name: "Deploy during payment",
    why: "The server restarts while it asks Stripe. The page reconnects to the new process, which asks again.",
    now: { webhook_delay_ms: 30_000 },
    paying: { api_latency_ms: 1000 },
    fault: "restart",
  },
  {
    name: "Redis stops",
    why: "It freezes for eight seconds as you pay. Redis only carries notifications; the database has the data.",
    fault: "redis",
  },
  {
    name: "Stripe is slow",
    why: "Our request takes 2.5 s. The webhook arrives first.",
    now: { webhook_delay_ms: 400 },
    paying: { api_latency_ms: 2500 },
  },
  {
    name: "Stripe rate limit",
    why: "Our requests get a 429. The webhook confirms the payment instead.",
    now: { webhook_delay_ms: 2000 },
    paying: { rate_limited: true },
  },
  {
    name: "Invoice lags behind",
    why: "The payment has succeeded but its invoice is still open. The payment counts.",
    now: { invoice_lag_ms: 4000, webhook_delay_ms: 4000 },
  },
];

/** @type {Record<string, [label: string, done: string]>} */
const FAULTS = {
  socket: ["Close the WebSocket", "Closed. The page reconnects."],
  redis: ["Stop Redis for 8 s", "Redis is stopped and resumes in 8 s."],
  restart: ["Restart the server", "The server is restarting."],
};
/** @type {Record<PaymentFault, string>} */
const REQUIRED_FAULT = { close: "", restart: "restart", redis: "redis" };

const state = {
  url: "",
  /** @type {Preset|null} */ armed: null,
  /** @type {Conditions|null} values to restore once the purchase is settled */ before: null,
  /** @type {InjectFault} */ inject: async () => {},
  /** @type {(now: Conditions) => void} */ show: () => {},
};

// ---- What a purchase calls

/** The card form is submitted: apply the preset's `paying` conditions, for a limited time. */
export async function applyPaymentConditions() {
  const { armed, url } = state;
  if (!armed?.paying) return;
  try {
    const now = await call("GET", url);
    state.before ??= Object.fromEntries(Object.keys(armed.paying).map((key) => [key, now[key]]));
    state.show(await call("POST", url, armed.paying));
    setTimeout(restoreConditions, RESTORE_AFTER_MS);
  } catch {
    // The sandbox does not answer; the payment will report it.
  }
}

/** The bank has confirmed: inject the preset's fault. @param {boolean} [tab] whether this tab may be closed @returns {boolean} whether to close it */
export function triggerFault(tab = true) {
  const type = state.armed?.fault;
  if (type && REQUIRED_FAULT[type]) setTimeout(() => state.inject(type).catch(() => {}), FAULT_DELAY_MS[type]);
  return tab && type === "close";
}

/** The purchase is settled: undo the `paying` conditions. */
export async function restoreConditions() {
  const { before, url } = state;
  if (!before) return;
  state.before = null;
  await call("POST", url, before).then(state.show, () => {});
}

// ---- The panel

/** @param {HTMLElement} panel @param {string} sandbox its address @param {string[]} available faults that the server offers @param {InjectFault} inject */
export async function conditions(panel, sandbox, available, inject) {
  const url = (state.url = `${sandbox}/sandbox/conditions`);
  state.inject = inject;
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (panel.querySelector(name));
  const [form, note, summary] = [part("form"), part("[data-note]"), part("[data-summary]")];
  const attempt = async (/** @type {() => Promise<void>} */ change) => {
    note.textContent = "";
    try {
      await change();
    } catch (problem) {
      note.textContent = /** @type {Error} */ (problem).message;
    }
  };
  const name = (/** @type {string} */ text) => {
    summary.textContent = text;
    for (const button of part("[data-presets]").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.dataset.name === text));
  };
  state.show = (now) => fill(/** @type {HTMLFormElement} */ (form), now);

  const set = (/** @type {Preset} */ preset) =>
    attempt(async () => {
      state.before = null;
      await call("POST", `${url}/reset`, {});
      if (preset.now) await call("POST", url, preset.now);
      state.show(await call("GET", url));
      state.armed = preset.fault || preset.paying ? preset : null;
      name(preset.name);
      note.textContent = state.armed ? `${preset.name}: starts when you pay with a form on this page.` : `${preset.name}: set.`;
    });
  const offered = PRESETS.filter(({ fault }) => !fault || !REQUIRED_FAULT[fault] || available.includes(REQUIRED_FAULT[fault]));
  part("[data-presets]").replaceChildren(...offered.map((preset) => presetButton(preset, () => set(preset))));
  form.before(faultButtons(available, (type) => attempt(async () => {
    await inject(type);
    note.textContent = FAULTS[type][1];
  })));
  form.before(unfold(form));
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) =>
    attempt(async () => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      const value = input.type === "checkbox" ? input.checked : Number(input.value);
      await call("POST", url, { [input.name]: value });
      state.armed = state.before = null;
      name("custom");
    });
  await attempt(async () => {
    const now = await call("GET", url);
    state.show(now);
    name(presetOf(now)?.name ?? "custom");
  });
  panel.hidden = false;
}

/** The preset that is set, of those that are complete before a payment. @param {Conditions} now */
const presetOf = (now) =>
  PRESETS.find(
    (preset) =>
      !preset.fault &&
      !preset.paying &&
      Object.values(GROUPS)
        .flatMap(Object.keys)
        .every((name) => Number(now[name] ?? 0) === Number(preset.now?.[name] ?? 0)),
  );

/** @param {Preset} preset @param {() => void} set */
function presetButton({ name, why }, set) {
  const button = document.createElement("button");
  const [title, text] = [document.createElement("b"), document.createElement("span")];
  button.type = "button";
  button.dataset.name = title.textContent = name;
  text.textContent = why;
  button.append(title, " ", text);
  button.onclick = set;
  return button;
}

/** @param {string[]} available @param {(type: string) => void} inject */
function faultButtons(available, inject) {
  const row = document.createElement("div");
  row.className = "fault-buttons";
  const buttons = Object.entries(FAULTS).filter(([type]) => available.includes(type));
  row.append(
    ...buttons.map(([type, [label]]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = label;
      button.onclick = () => inject(type);
      return button;
    }),
  );
  return row;
}

/** The form of single conditions is folded until it is asked for. @param {HTMLElement} form */
function unfold(form) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  button.textContent = "Set each condition";
  form.id = "each-condition";
  button.setAttribute("aria-controls", form.id);
  const open = (/** @type {boolean} */ yes) => {
    form.hidden = !yes;
    button.setAttribute("aria-expanded", String(yes));
  };
  button.onclick = () => open(form.hidden === true);
  open(false);
  return button;
}

/** Show the current conditions without moving the focus. @param {HTMLFormElement} form @param {Conditions} now */
function fill(form, now) {
  if (!form.childElementCount) form.append(...Object.entries(GROUPS).map(([title, fields]) => group(title, fields, now)));
  for (const [key, value] of Object.entries(now)) {
    const input = /** @type {HTMLInputElement|null} */ (form.elements.namedItem(key));
    if (!input) continue;
    if (typeof value === "boolean" || input.type === "checkbox") input.checked = !!value;
    else input.value = String(value);
  }
}

/** @param {string} title @param {Record<string, [label: string, unit?: string]>} fields @param {Conditions} now */
function group(title, fields, now) {
  const set = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = title;
  const known = Object.entries(fields).filter(([key]) => key in now);
  set.append(legend, ...known.map(([key, words]) => field(key, words, now[key])));
  return set;
}

/** @param {string} key @param {[label: string, unit?: string]} words @param {unknown} value */
function field(key, [text, unit], value) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.name = key;
  if (typeof value === "boolean") {
    input.type = "checkbox";
    label.append(input, text);
  } else {
    input.type = "number";
    input.min = "0";
    input.step = key.endsWith("rate") ? "0.05" : "1";
    label.append(unit ? `${text} (${unit})` : text, input);
  }
  return label;
}
