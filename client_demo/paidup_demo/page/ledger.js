// @ts-check
/**
 * The credit history: one row per entry, newest first, grouped by day.
 *
 * Older pages are loaded on request. The entries' texts come from lib/account_text.js.
 */
import * as accountText from "../lib/account_text.js";
import * as api from "../lib/api.js";
import { el } from "../lib/dom.js";
import * as texts from "../lib/text.js";

/** @typedef {import("../lib/api.js").Entry} Entry */
/** @typedef {import("../lib/api.js").Plan} Plan */

/** @type {Entry[]} newest first */
let entries = [];
/** @type {boolean} */
let more = false;

/** Load the newest page; older rows already shown are kept. @param {Plan[]} plans */
export async function refreshLedger(plans) {
  const page = await api.entries();
  const oldest = page.entries.at(-1)?.id ?? 0;
  const joined = page.entries.some(({ id }) => id === entries[0]?.id) || !page.has_more;
  if (joined) {
    const older = entries.filter(({ id }) => id < oldest);
    if (!older.length) more = page.has_more;
    entries = [...page.entries, ...older];
  } else [entries, more] = [page.entries, page.has_more];
  draw(plans);
}

/** Append an older page and focus its first row. @param {Plan[]} plans */
export async function showOlder(plans) {
  const last = entries.at(-1);
  if (!last || !more) return;
  const page = await api.entries(last.id);
  entries = [...entries, ...page.entries];
  more = page.has_more;
  draw(plans);
  const first = page.entries[0];
  /** @type {HTMLElement|null} */ (el("entries").querySelector(`[data-entry="${first?.id}"]`))?.focus();
}

/** @param {Plan[]} plans */
function draw(plans) {
  el("no-entries").hidden = entries.length > 0;
  el("entries").hidden = entries.length === 0;
  el("older").hidden = !more;
  for (const body of el("entries").querySelectorAll("tbody")) body.remove();
  el("entries").append(...days().map((of) => day(of, plans)));
}

/** The entries grouped by day. @returns {Entry[][]} */
function days() {
  /** @type {Map<string, Entry[]>} */
  const found = new Map();
  for (const entry of entries) {
    const name = accountText.date(entry.at);
    found.set(name, [...(found.get(name) ?? []), entry]);
  }
  return [...found.values()];
}

/** @param {Entry[]} of one day @param {Plan[]} plans */
function day(of, plans) {
  const body = document.createElement("tbody");
  const row = body.insertRow();
  const head = document.createElement("th");
  head.scope = "rowgroup";
  head.colSpan = 3;
  head.textContent = accountText.date(of[0].at);
  row.append(head);
  body.append(...of.map((entry) => drawEntry(entry, plans)));
  return body;
}

/** @param {Entry} entry @param {Plan[]} plans */
function drawEntry(entry, plans) {
  const row = document.createElement("tr");
  row.tabIndex = -1;
  row.dataset.entry = String(entry.id);
  row.dataset.kind = entry.kind;
  if (!entry.credits) row.dataset.none = "";
  const [what, why] = accountText.entry(entry, plans);
  const name = row.insertCell();
  name.textContent = what;
  if (why) name.append(" ", small(why));
  row.insertCell().textContent = texts.signed(entry.credits);
  row.insertCell().textContent = texts.number(entry.balance);
  return row;
}

/** @param {string} text */
function small(text) {
  const made = document.createElement("small");
  made.textContent = text;
  return made;
}
