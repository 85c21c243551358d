// @ts-check
/**
 * The sandbox's weather: presets that each show one thing, moments that strike, and every condition by itself.
 *
 * Owns what is armed: some conditions begin only with the payment, or a plan could not be chosen under them; some
 * moments strike when it is confirmed. Shows whatever the sandbox offers; does nothing where there is no sandbox.
 */
import { call } from "../lib/api.js";

/** @typedef {Record<string, unknown>} Conditions */
/** @typedef {"close"|"restart"|"redis"} Strike */
/**
 * `now` is set at once; `paying` when the card form is sent off, until the purchase is settled; `strike` happens when
 * the bank has said yes.
 * @typedef {{name: string, why: string, now?: Conditions, paying?: Conditions, strike?: Strike}} Preset
 */
/** @typedef {(what: string) => Promise<unknown>} Moment asks the demo for a moment */

const BACK_TO_CALM_MS = 30_000;
const STRIKE_AFTER_MS = { restart: 400, redis: 0, close: 0 }; // a deploy in the middle comes while Stripe is asked

/** @type {Record<string, Record<string, [label: string, unit?: string]>>} */
const GROUPS = {
  Webhooks: {
    webhook_delay_ms: ["Webhook arrives after", "ms"],
    webhook_jitter_ms: ["give or take", "ms"],
    webhook_duplicates: ["Extra copies of each webhook"],
    webhook_drop: ["Webhook never arrives"],
    webhook_shuffle: ["Webhooks out of order"],
  },
  "Stripe’s answers": {
    api_latency_ms: ["Stripe answers after", "ms"],
    api_error_rate: ["Share of calls that fail", "0 to 1"],
    api_lost_reply_rate: ["Share of answers lost", "0 to 1"],
    rate_limited: ["Stripe refuses: too many requests"],
    api_down: ["Stripe is down"],
    affect_browser: ["The card form suffers too"],
  },
  Payments: {
    invoice_lag_ms: ["Invoice lags behind payment by", "ms"],
    processing_ms: ["Payment stays processing for", "ms"],
    refund_pending: ["Refunds stay pending"],
  },
};

/** @type {Preset[]} */
const PRESETS = [
  { name: "Normal", why: "Nothing goes wrong: verification and webhook come within milliseconds of each other." },
  {
    name: "Webhook is a minute late",
    why: "Waiting for it would lock out a customer who has paid. Verification does not wait.",
    now: { webhook_delay_ms: 60_000 },
  },
  { name: "Webhook never comes", why: "A message is lost, and nobody misses it.", now: { webhook_drop: true } },
  {
    name: "Webhooks twice, out of order",
    why: "Stripe promises at least once and no order: it is one grant all the same.",
    now: { webhook_duplicates: 1, webhook_shuffle: true, webhook_delay_ms: 300 },
  },
  {
    name: "Tab closed after paying",
    why: "Nobody watches and no webhook comes: the reconciler finds the payment within a minute.",
    now: { webhook_drop: true },
    strike: "close",
  },
  {
    name: "Deploy in the middle",
    why: "The server is replaced while it asks Stripe. The page comes back to the new one, which asks again.",
    now: { webhook_delay_ms: 30_000 },
    paying: { api_latency_ms: 1000 },
    strike: "restart",
  },
  {
    name: "Redis stops",
    why: "It freezes as you pay, for eight seconds. It only carries hints: the database knows.",
    strike: "redis",
  },
  {
    name: "Stripe is slow",
    why: "Our question takes 2.5 s to be answered. The webhook overtakes it.",
    now: { webhook_delay_ms: 400 },
    paying: { api_latency_ms: 2500 },
  },
  {
    name: "Stripe refuses: too many requests",
    why: "Our questions are turned away. The webhook brings the news instead.",
    now: { webhook_delay_ms: 2000 },
    paying: { rate_limited: true },
  },
  {
    name: "Invoice lags behind",
    why: "The payment has succeeded and its invoice still says open. The money counts.",
    now: { invoice_lag_ms: 4000, webhook_delay_ms: 4000 },
  },
];

/** @type {Record<string, [label: string, done: string]>} */
const MOMENTS = {
  socket: ["Cut the socket", "Cut: the page connects again by itself."],
  redis: ["Stop Redis for 8 s", "Redis is frozen, and goes on by itself."],
  restart: ["Restart the server", "The server is being replaced."],
};
/** @type {Record<Strike, string>} */
const NEEDS = { close: "", restart: "restart", redis: "redis" };

const state = {
  url: "",
  /** @type {Preset|null} */ armed: null,
  /** @type {Conditions|null} what is to be set back once the purchase is settled */ before: null,
  /** @type {Moment} */ moment: async () => {},
  /** @type {(now: Conditions) => void} */ show: () => {},
};

// ---- What a purchase calls

/** The card form is sent off: what is armed for it begins, and ends by itself. */
export async function weather() {
  const { armed, url } = state;
  if (!armed?.paying) return;
  try {
    const now = await call("GET", url);
    state.before ??= Object.fromEntries(Object.keys(armed.paying).map((key) => [key, now[key]]));
    state.show(await call("POST", url, armed.paying));
    setTimeout(struckEnough, BACK_TO_CALM_MS);
  } catch {
    // The sandbox is away: then the payment will say so.
  }
}

/** The bank has said yes. @param {boolean} [tab] whether there is one to close @returns {boolean} whether it is to be */
export function strike(tab = true) {
  const what = state.armed?.strike;
  if (what && NEEDS[what]) setTimeout(() => state.moment(what).catch(() => {}), STRIKE_AFTER_MS[what]);
  return tab && what === "close";
}

/** The purchase is settled: what was only for it ends. */
export async function struckEnough() {
  const { before, url } = state;
  if (!before) return;
  state.before = null;
  await call("POST", url, before).then(state.show, () => {});
}

// ---- The panel

/** @param {HTMLElement} panel @param {string} sandbox its address @param {string[]} can moments that can be had @param {Moment} moment */
export async function conditions(panel, sandbox, can, moment) {
  const url = (state.url = `${sandbox}/sandbox/conditions`);
  state.moment = moment;
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
      state.armed = preset.strike || preset.paying ? preset : null;
      name(preset.name);
      note.textContent = state.armed ? `Armed: ${preset.name}. It strikes when you pay.` : `Set: ${preset.name}.`;
    });
  const offered = PRESETS.filter(({ strike }) => !strike || !NEEDS[strike] || can.includes(NEEDS[strike]));
  part("[data-presets]").replaceChildren(...offered.map((preset) => presetButton(preset, () => set(preset))));
  form.before(moments(can, (what) => attempt(async () => {
    await moment(what);
    note.textContent = MOMENTS[what][1];
  })));
  form.before(unfold(form));
  form.onsubmit = (event) => event.preventDefault();
  form.onchange = (event) =>
    attempt(async () => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      const value = input.type === "checkbox" ? input.checked : Number(input.value);
      await call("POST", url, { [input.name]: value });
      state.armed = state.before = null;
      name("your own");
    });
  await attempt(async () => {
    const now = await call("GET", url);
    state.show(now);
    name(isCalm(now) ? "Normal" : "as they are");
  });
  panel.hidden = false;
}

/** @param {Conditions} now */
const isCalm = (now) => Object.values(now).every((value) => !value || value === "succeeded" || `${value}` === "");

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

/** @param {string[]} can @param {(what: string) => void} ask */
function moments(can, ask) {
  const row = document.createElement("div");
  row.className = "moments";
  const buttons = Object.entries(MOMENTS).filter(([what]) => can.includes(what));
  row.append(
    ...buttons.map(([what, [label]]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = label;
      button.onclick = () => ask(what);
      return button;
    }),
  );
  return row;
}

/** The single conditions are for those who look for them. @param {HTMLElement} form */
function unfold(form) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  button.textContent = "Set each by itself";
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

/** The conditions as they are now, without taking the focus from one that is being edited. @param {HTMLFormElement} form @param {Conditions} now */
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
