// @ts-check
/**
 * Builds the timeline of one purchase: lanes, table rows and sentences from the recorded events.
 *
 * Pure: no DOM, no clock, no requests. Times are milliseconds. In the result they count from the bank's confirmation,
 * or from the first event about the payment if this browser did not see the confirmation.
 */

import { formatDuration } from "../lib/text.js";

/** @typedef {{at: number, type: string, detail: Record<string, any>}} TimelineEvent one entry of the invoice's timeline */
/** @typedef {{type: string, started: number, ended: number|null}} Fault a fault injected into the demo */
/** @typedef {{type: string, at: number}} Mark what the browser saw, in the server's time */
/**
 * @typedef {{invoice: string, status: string, events: TimelineEvent[], faults: Fault[], marks: Mark[]}} Purchase
 */
/** @typedef {"browser"|"socket"|"verification"|"webhook"|"reconciliation"|"redis"} LaneId */
/** @typedef {"plain"|"first"|"late"|"bad"} Look */
/** @typedef {{at: number, look: Look, text: string}} Dot */
/** @typedef {{from: number, to: number|null, look: "work"|"open"|"wait"|"outage"}} Span `to` null: still going on */
/** @typedef {{id: LaneId, name: string, summary: string, dots: Dot[], spans: Span[]}} Lane */
/** @typedef {{at: number, who: string, text: string}} Row of the table */
/**
 * @typedef {{origin: number, confirmed: boolean, settled: number|null, shownAt: number|null,
 *   lanes: Lane[], restarts: {from: number, to: number|null}[], rows: Row[], last: number, open: boolean,
 *   before: number, webhook: number|null, missed: boolean, headline: string, detail: string}} Timeline
 *   `webhook`: when it came, in ms since the credits were granted; `missed`: it is no longer expected
 */

/** Stripe's events that report a payment. Other events of this invoice are listed in the table only. */
const PAID = new Set([
  "invoice.paid",
  "invoice.payment_succeeded",
  "invoice_payment.paid",
  "payment_intent.succeeded",
  "checkout.session.completed",
  "checkout.session.async_payment_succeeded",
]);
/** Of a Checkout Session's `payment_status`. */
const SETTLED_PAGES = new Set(["paid", "no_payment_required"]);
export const BEFORE_MS = 1000; // 3DS pages and webhooks can be this much ahead of the browser
export const PAGE_BEFORE_MS = 60_000; // Stripe's page can be open this much longer, of what is drawn
const WEBHOOK_GIVE_UP_MS = 180_000; // after this, a missing webhook is no longer waited for
export const DELIVERED = "sent to the page";

/** @type {Record<LaneId, string>} */
const NAMES = {
  browser: "Browser",
  socket: "Socket",
  verification: "Verification",
  webhook: "Webhook",
  reconciliation: "Reconciler",
  redis: "Redis",
};
const LANES = /** @type {LaneId[]} */ (Object.keys(NAMES));

// ---- Text

/** @param {number} count */
export const times = (count) => (count === 1 ? "once" : count === 2 ? "twice" : `${count} times`);

/** @param {number} count */
const requests = (count) => `${count} ${count === 1 ? "request" : "requests"}`;

/** @type {Record<string, string>} */
const SOURCE_NAMES = { verification: "verification", webhook: "the webhook", reconciliation: "the reconciler" };

// ---- The timeline

/**
 * The timeline of `record` at `now` (the server's clock, ms since 1970).
 * @param {Purchase} record @param {number} now @returns {Timeline}
 */
export function buildTimeline(record, now) {
  const origin = originOf(record) ?? now;
  const clock = now - origin;
  const events = record.events.map((event) => ({ ...event, at: event.at - origin }));
  const marks = record.marks.map((mark) => ({ ...mark, at: mark.at - origin }));
  const credited = events.find(({ type }) => type === "settled");
  const settled = credited?.at ?? null;
  const via = credited?.detail.source ?? null;
  const shownAt = marks.find(({ type }) => type === "active")?.at ?? null;
  const confirmed = marks.some(({ type }) => type === "confirmed");
  const before = events.some(({ type }) => type === "checkout_opened") ? PAGE_BEFORE_MS : BEFORE_MS;
  const faults = record.faults
    .map(({ type, started, ended }) => ({ type, from: started - origin, to: ended === null ? null : ended - origin }))
    .filter(({ to }) => to === null || to > -before);
  const restarts = faults.filter(({ type }) => type === "restart");
  const redisOutages = faults.filter(({ type }) => type === "redis");
  const known = { record, clock, events, marks, restarts, redisOutages, settled, via, confirmed, before };
  const lanes = LANES.map((id) => lane(id, known));
  const rows = rowsOf(known);
  const shown = rows.filter(({ at }) => at >= -before);
  const received = events.find(isPaidWebhook);
  const lasting = faults.some(({ to }) => to === null);
  const missed = settled !== null && !received && clock - settled > WEBHOOK_GIVE_UP_MS;
  const over = settled !== null && (received || missed) && !lasting;
  return {
    ...{ origin, confirmed, settled, shownAt, lanes, restarts, rows, before },
    last: Math.max(0, ...shown.map(({ at }) => at)),
    open: !over && !["void", "reversed"].includes(record.status),
    webhook: settled === null || !received ? null : received.at - settled,
    missed,
    ...sentences(known),
  };
}

/** @typedef {{type: string, from: number, to: number|null}} Outage a fault while it lasted; `to` null: still going on */
/**
 * @typedef {{record: Purchase, clock: number, events: TimelineEvent[], marks: Mark[], restarts: Outage[], redisOutages: Outage[],
 *   settled: number|null, via: string|null, confirmed: boolean, before: number}} Known `before`: what is drawn of the time
 *   before the confirmation, in ms
 */

/** When it began; undefined before its first event. @param {Purchase} record */
function originOf({ marks, events }) {
  const confirmed = marks.find(({ type }) => type === "confirmed");
  if (confirmed) return confirmed.at;
  const news = events.find((event) => isPaidWebhook(event) || event.type === "settled") ?? events[0];
  return news?.at;
}

/** @param {TimelineEvent} event */
const isPaidWebhook = ({ type, detail }) => type === "webhook_received" && PAID.has(detail.type);

/** @param {LaneId} id @param {Known} known @returns {Lane} */
function lane(id, known) {
  const made = { browser, socket, verification, webhook, reconciliation, redis }[id](known);
  if (known.settled !== null && known.via === id) {
    made.dots.push({ at: known.settled, look: "first", text: "credited" });
  }
  made.dots = made.dots.filter(({ at }) => at >= -known.before);
  made.spans = made.spans.filter(({ to }) => to === null || to >= -known.before);
  return { id, name: NAMES[id], ...made };
}

/** @type {Record<string, [text: string, look: Look]>} */
const BROWSER_EVENTS = {
  confirmed: ["the bank confirmed", "plain"],
  active: ["the screen says active", "first"],
  left: ["Stripe’s page opened", "plain"],
  returned: ["back on this page", "plain"],
  closed: ["the tab is closed", "bad"],
  opened: ["the tab is open again", "plain"],
};

/** @param {Known} known */
function browser({ events, marks, confirmed }) {
  /** @type {Dot[]} */
  const dots = marks.flatMap(({ type, at }) => (BROWSER_EVENTS[type] ? [{ at, text: BROWSER_EVENTS[type][0], look: BROWSER_EVENTS[type][1] }] : []));
  const opened = events.find(({ type }) => type === "checkout_opened");
  if (opened && !marks.some(({ type }) => type === "left")) dots.push({ at: opened.at, look: "plain", text: BROWSER_EVENTS.left[0] });
  const active = marks.find(({ type }) => type === "active");
  const closed = marks.some(({ type }) => type === "closed");
  const away = marks.some(({ type }) => type === "left") && !marks.some(({ type }) => type === "returned");
  const summary = active
    ? confirmed
      ? `active after ${formatDuration(active.at)}`
      : "active"
    : closed
      ? "the tab is closed"
      : confirmed
        ? "waiting"
        : away
          ? "on Stripe’s page"
          : "not seen";
  return { dots, summary, spans: /** @type {Span[]} */ ([]) };
}

/** @param {Known} known */
function socket({ events }) {
  /** @type {Span[]} */ const spans = [];
  /** @type {Dot[]} */ const dots = [];
  let lost = 0;
  for (const { type, at, detail } of events) {
    if (type === "socket_opened") {
      spans.push({ from: at, to: null, look: "open" });
      dots.push({ at, look: "plain", text: "opened" });
    } else if (type === "delivered" || type === "socket_lost") {
      const open = spans.find(({ to }) => to === null);
      if (open) open.to = at;
      const gone = type === "socket_lost";
      if (gone) lost += 1;
      const text = gone ? (detail.reason === "restarting" ? "closed: server restarting" : "lost") : DELIVERED;
      dots.push({ at, look: gone ? "bad" : "plain", text });
    }
  }
  const told = events.find(({ type }) => type === "delivered");
  const open = spans.some(({ to }) => to === null);
  const before = lost ? `lost ${times(lost)}, ` : "";
  const summary = told ? `${before}updated` : open ? `${before}open` : lost ? "lost" : "never opened";
  return { spans, dots, summary };
}

/** Calls to Stripe by one source, each from request to answer, or to the end of its process. @param {Known} known @param {string} of */
function stripeCalls({ events, restarts }, of) {
  /** @type {Span[]} */ const spans = [];
  /** @type {Dot[]} */ const dots = [];
  for (const { type, at, detail } of events.filter(({ detail }) => detail.source === of)) {
    if (type === "verification_asked") {
      const unanswered = spans.find(({ to }) => to === null);
      if (unanswered) unanswered.to = at; // its process ended
      spans.push({ from: at, to: null, look: "work" });
    } else if (type === "verification_answered" || type === "verification_failed") {
      const open = spans.find(({ to }) => to === null);
      if (open) open.to = at;
      const failed = type === "verification_failed";
      const succeeded = detail.invoice_status === "paid" || detail.payments?.includes("succeeded") || SETTLED_PAGES.has(detail.payment_status);
      const text = failed ? "Stripe did not answer" : succeeded ? "Stripe says paid" : "not paid yet";
      dots.push({ at, look: failed ? "bad" : "plain", text });
    }
  }
  for (const span of spans) {
    const cut = restarts.find(({ from, to }) => from > span.from && (span.to === null || span.to > (to ?? Infinity)));
    if (cut) span.to = cut.from;
  }
  return { spans, dots };
}

/** @param {Known} known */
function verification(known) {
  const { settled, via } = known;
  const { spans, dots } = stripeCalls(known, "verification");
  for (const span of spans) if (span.to === null && settled !== null && via === "verification") span.to = settled;
  const asked = spans.length;
  const failed = dots.filter(({ look }) => look === "bad").length;
  let summary = asked ? "waiting for Stripe" : "no request yet";
  if (via === "verification") summary = asked ? `${requests(asked)}, first` : "first"; // none: read by a plan change
  else if (settled !== null && spans.some(({ to }) => to === null)) summary = "still waiting for Stripe";
  else if (settled !== null && asked) summary = failed === asked ? "refused" : dots.length ? "too late" : "interrupted";
  else if (settled !== null) summary = "not needed";
  else if (failed) summary = `refused ${times(failed)}, will retry`;
  else if (asked && spans.every(({ to }) => to !== null)) summary = "not paid yet, will retry";
  return { spans, dots, summary };
}

/** @param {Known} known */
function webhook(known) {
  const { events, settled, via, clock, confirmed } = known;
  const { spans, dots } = stripeCalls(known, "webhook");
  const paid = events.filter(isPaidWebhook);
  const first = paid[0];
  for (const event of paid) {
    const late = settled !== null && event.at > settled;
    dots.push({ at: event.at, look: late ? "late" : "plain", text: `${event.detail.type}` });
  }
  if (!first && clock < WEBHOOK_GIVE_UP_MS) spans.push({ from: 0, to: null, look: "wait" });
  else if (first && first.at > 0) spans.push({ from: 0, to: first.at, look: "wait" });
  let summary = clock < WEBHOOK_GIVE_UP_MS ? "not yet" : "missing";
  if (first && via === "webhook") summary = confirmed ? `after ${formatDuration(Math.max(0, first.at))}, first` : "first";
  else if (first && settled !== null && first.at >= settled) summary = `${formatDuration(first.at - settled)} later, already credited`;
  else if (first) summary = settled === null ? "received" : "received at the same time";
  return { spans, dots, summary };
}

/** @param {Known} known */
function reconciliation(known) {
  const { settled, via } = known;
  const { spans, dots } = stripeCalls(known, "reconciliation");
  let summary = settled === null ? "runs every few seconds" : "not needed";
  if (via === "reconciliation") summary = `found after ${formatDuration(Math.max(0, settled ?? 0))}`;
  else if (spans.length) summary = "checked";
  return { spans, dots, summary };
}

/** @param {Known} known */
function redis({ events, settled, redisOutages }) {
  /** @type {Dot[]} */ const dots = [];
  for (const { type, at } of events.filter(({ at }) => at >= Math.min(0, settled ?? 0))) {
    if (type === "published") dots.push({ at, look: "plain", text: "published" });
    if (type === "not_published") dots.push({ at, look: "bad", text: "publish failed" });
  }
  const spans = redisOutages.map(({ from, to }) => ({ from, to, look: /** @type {const} */ ("outage") }));
  const taken = dots.some(({ look }) => look === "plain");
  let summary = taken ? "sent to all processes" : "nothing published yet";
  if (redisOutages.some(({ to }) => to === null)) summary = "stopped";
  else if (redisOutages.length) summary = "stopped for a while";
  else if (dots.length && !taken) summary = "no answer";
  return { dots, spans, summary };
}

// ---- Sentences

/** @param {Known} known */
function sentences({ record, events, marks, settled, via, confirmed, clock }) {
  const webhook = events.find(isPaidWebhook);
  if (settled === null) return unsettled(record, events, clock, confirmed);
  const lead = `Confirmed by ${SOURCE_NAMES[via ?? ""] ?? "the server"}`;
  let headline = `${lead}.`;
  if (via === "verification") {
    if (webhook && webhook.at > settled) headline = `${lead}, ${formatDuration(webhook.at - settled)} before the webhook.`;
    else if (webhook) headline = `${lead}; the webhook was already being processed.`;
    else headline = clock < WEBHOOK_GIVE_UP_MS ? `${lead}. No webhook has come yet.` : `${lead}. No webhook came.`;
  } else if (via === "webhook") {
    const answer = events.find(
      ({ type, at, detail }) => type === "verification_answered" && detail.source === "verification" && at >= settled,
    );
    const asked = events.some(({ type, detail }) => type === "verification_asked" && detail.source === "verification");
    const refused = events.some(({ type, detail }) => type === "verification_failed" && detail.source === "verification");
    if (refused) headline = `${lead}; Stripe refused our own requests.`;
    else if (answer) headline = `${lead}, ${formatDuration(answer.at - settled)} before verification got its answer.`;
    else if (asked) headline = `${lead} while verification was still waiting for Stripe.`;
    else headline = `${lead} before verification had started.`;
  } else if (via === "reconciliation") {
    if (webhook && webhook.at > settled) headline = `${lead}, ${formatDuration(webhook.at - settled)} before the webhook.`;
    else if (!webhook) {
      const closed = marks.some(({ type }) => type === "closed") ? "the tab was closed and " : "";
      headline = `${lead}: ${closed}no webhook had come.`;
    }
  }
  const active = marks.find(({ type }) => type === "active");
  const credited = confirmed ? `Credited ${formatDuration(Math.max(0, settled))} after the bank confirmed` : "Credited";
  const screen = active && confirmed ? `; on the screen after ${formatDuration(active.at)}.` : ".";
  return { headline, detail: credited + screen };
}

/** @param {Purchase} record @param {TimelineEvent[]} events @param {number} clock @param {boolean} confirmed */
function unsettled(record, events, clock, confirmed) {
  if (record.status === "failed") return { headline: "The payment failed.", detail: "There is nothing to credit." };
  const asked = events.filter(({ type, at }) => type === "verification_asked" && at > 0).length;
  const detail = asked
    ? `Stripe was asked ${times(asked)} so far.`
    : "Stripe has not been asked yet.";
  return { headline: confirmed ? "Paid. Waiting for the first source to confirm it." : "No payment seen yet.", detail };
}

// ---- The table

/** @type {Record<string, (detail: Record<string, any>) => [who: string, text: string]>} */
const EVENT_TEXT = {
  created: ({ source: by }) => [by === "webhook" ? NAMES.webhook : "Server", "Invoice created."],
  socket_opened: () => [NAMES.socket, "Opened for this invoice."],
  socket_lost: ({ reason }) => [NAMES.socket, reason ? `Closed by the server: ${reason}.` : "Connection lost."],
  verification_asked: ({ source: by }) => [sourceName(by), "Request to Stripe."],
  checkout_opened: () => ["Server", "Checkout Session opened."],
  checkout_completed: () => ["Server", "Checkout Session known to be complete."],
  verification_answered: ({ source: by, took_ms, ...said }) => [
    sourceName(by),
    `Stripe answered${took_ms ? ` after ${formatDuration(took_ms)}` : ""}: ${answerOf(said)}.`,
  ],
  verification_failed: ({ source: by, error }) => [sourceName(by), `No answer: ${error}`],
  webhook_received: ({ type, outcome }) => [NAMES.webhook, `Received: ${type}${outcome ? `, ${outcome}` : ""}.`],
  notified: ({ source: by, status }) => [sourceName(by), `Status: ${String(status).replace("_", " ")}.`],
  settled: ({ source: by, reason }) => [sourceName(by), `Credited: ${reason}.`],
  refused: ({ source: by, reason }) => [sourceName(by), `Refused: ${reason}.`],
  reversed: ({ reason }) => ["Stripe", `Payment reversed: ${reason}.`],
  published: ({ version }) => [NAMES.redis, `Published version ${version} to the other processes.`],
  not_published: ({ version }) => [NAMES.redis, `Could not publish version ${version}.`],
  delivered: ({ status }) => [NAMES.socket, `Sent to the page: ${status}.`],
};
/** What Stripe said of a Checkout Session, or of an invoice. @param {Record<string, any>} detail */
const answerOf = ({ session_status: session, payment_status: paid, invoice_status: invoice, payments }) =>
  session
    ? `the session is ${session}, ${String(paid).replaceAll("_", " ")}`
    : `the invoice is ${invoice}${payments ? `, the payment ${payments.join(" and ") || "not made"}` : ""}`;

/** @type {Record<string, [who: string, start: string, end: string]>} */
const FAULT_TEXT = {
  restart: ["Server", "Stopping.", "A new process is ready."],
  redis: [NAMES.redis, "Stopped.", "Running again."],
};

/** @param {string} of */
const sourceName = (of) => NAMES[/** @type {LaneId} */ (of)] ?? of;

/** @param {Known} known @returns {Row[]} */
function rowsOf({ events, marks, restarts, redisOutages }) {
  const rows = events.map(({ at, type, detail }) => {
    const [who, text] = EVENT_TEXT[type]?.(detail) ?? ["Server", type];
    return { at, who, text };
  });
  for (const { type, at } of marks) {
    if (BROWSER_EVENTS[type]) rows.push({ at, who: NAMES.browser, text: `${capital(BROWSER_EVENTS[type][0])}.` });
  }
  for (const { type, from, to } of [...restarts, ...redisOutages]) {
    const [who, start, end] = FAULT_TEXT[type];
    rows.push({ at: from, who, text: start });
    if (to !== null) rows.push({ at: to, who, text: end });
  }
  return rows.sort((one, other) => one.at - other.at);
}

/** @param {string} text */
const capital = (text) => text[0].toUpperCase() + text.slice(1);
