// @ts-check
/**
 * The race, worked out: from what happened to an invoice to lanes, positions, ticks and words.
 *
 * Pure: no page, no clock, no request. Times are milliseconds; those of the story count from the moment at which
 * the bank confirmed, or from the first news where this browser did not see that.
 */

/** @typedef {{at: number, what: string, detail: Record<string, any>}} Step one entry of the invoice's timeline */
/** @typedef {{what: string, began: number, ended: number|null}} Moment what was done to the whole demo meanwhile */
/** @typedef {{what: string, at: number, within: number}} Mark what the browser saw, by the server's clock, ± `within` */
/**
 * @typedef {{invoice: string, status: string, steps: Step[], moments: Moment[], marks: Mark[]}} Purchase
 */
/** @typedef {"browser"|"socket"|"verification"|"webhook"|"reconciliation"|"redis"} LaneId */
/** @typedef {"plain"|"won"|"late"|"bad"} Look */
/** @typedef {{at: number, look: Look, text: string}} Dot */
/** @typedef {{from: number, to: number|null, look: "work"|"open"|"wait"|"away"}} Span `to` null: not over yet */
/** @typedef {{id: LaneId, name: string, said: string, dots: Dot[], spans: Span[]}} Lane */
/** @typedef {{at: number, who: string, text: string, within: number}} Row of the table */
/**
 * @typedef {{origin: number, confirmed: boolean, settled: number|null, painted: number|null,
 *   lanes: Lane[], away: {from: number, to: number|null}[], rows: Row[], last: number, open: boolean,
 *   headline: string, detail: string}} Story
 */
/** @typedef {{from: number, to: number}} Window */

/** Stripe's messages that a payment has come; all others of this invoice are listed, and win nothing. */
const PAID = new Set([
  "invoice.paid",
  "invoice.payment_succeeded",
  "invoice_payment.paid",
  "payment_intent.succeeded",
]);
const BEFORE_MS = 1000; // the bank's page and Stripe's messages may be ahead of the browser by so much
const UNHEARD_MS = 180_000; // a webhook that has not come by then is no longer shown as on its way
const LENS_BELOW = 0.12; // what takes less of the whole than this is drawn once more, enlarged

const TOLD = "told the page";

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

// ---- Words

/** A length of time as people say it: 41 ms, 4.9 s, 38 s, 2 min 5 s. @param {number} ms */
export function span(ms) {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 100) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** A figure and its unit stay on one line. @param {string} words */
export const unbroken = (words) => words.replace(/(\d) (ms|s|min)\b/g, "$1\u00a0$2");

/** @param {number} count */
export const times = (count) => (count === 1 ? "once" : count === 2 ? "twice" : `${count} times`);

/** @type {Record<string, string>} */
const ROADS = { verification: "Verification", webhook: "The webhook", reconciliation: "The reconciler" };

// ---- The story

/**
 * What the record says at `now` (the server's clock, ms since 1970).
 * @param {Purchase} record @param {number} now @returns {Story}
 */
export function story(record, now) {
  const origin = originOf(record);
  const clock = now - origin;
  const steps = record.steps.map((step) => ({ ...step, at: step.at - origin }));
  const marks = record.marks.map((mark) => ({ ...mark, at: mark.at - origin }));
  const credited = steps.find(({ what }) => what === "settled");
  const settled = credited?.at ?? null;
  const via = credited?.detail.source ?? null;
  const painted = marks.find(({ what }) => what === "active")?.at ?? null;
  const confirmed = marks.some(({ what }) => what === "confirmed");
  const moments = record.moments
    .map(({ what, began, ended }) => ({ what, from: began - origin, to: ended === null ? null : ended - origin }))
    .filter(({ to }) => to === null || to > -BEFORE_MS);
  const away = moments.filter(({ what }) => what === "restart");
  const frozen = moments.filter(({ what }) => what === "redis");
  const known = { record, clock, steps, marks, away, frozen, settled, via, confirmed };
  const lanes = LANES.map((id) => lane(id, known));
  const rows = rowsOf(known);
  const shown = rows.filter(({ at }) => at >= -BEFORE_MS);
  const heard = steps.some(isPaidWebhook);
  const lasting = moments.some(({ to }) => to === null);
  const over = settled !== null && (heard || clock - settled > UNHEARD_MS) && !lasting;
  return {
    ...{ origin, confirmed, settled, painted, lanes, away, rows },
    last: Math.max(0, ...shown.map(({ at }) => at)),
    open: !over && !["void", "reversed"].includes(record.status),
    ...sentences(known),
  };
}

/** @typedef {{what: string, from: number, to: number|null}} Away how long something was not there */
/**
 * @typedef {{record: Purchase, clock: number, steps: Step[], marks: Mark[], away: Away[], frozen: Away[],
 *   settled: number|null, via: string|null, confirmed: boolean}} Known
 */

/** @param {Purchase} record */
function originOf({ marks, steps }) {
  const confirmed = marks.find(({ what }) => what === "confirmed");
  if (confirmed) return confirmed.at;
  const news = steps.find((step) => isPaidWebhook(step) || step.what === "settled") ?? steps[0];
  return news?.at ?? 0;
}

/** @param {Step} step */
const isPaidWebhook = ({ what, detail }) => what === "webhook_received" && PAID.has(detail.type);

/** @param {LaneId} id @param {Known} known @returns {Lane} */
function lane(id, known) {
  const made = { browser, socket, verification, webhook, reconciliation, redis }[id](known);
  if (known.settled !== null && known.via === id) {
    made.dots.push({ at: known.settled, look: "won", text: "credited" });
  }
  made.dots = made.dots.filter(({ at }) => at >= -BEFORE_MS);
  made.spans = made.spans.filter(({ to }) => to === null || to >= -BEFORE_MS);
  return { id, name: NAMES[id], ...made };
}

/** @type {Record<string, [text: string, look: Look]>} */
const SEEN = {
  confirmed: ["the bank said yes", "plain"],
  active: ["the screen says active", "won"],
  closed: ["the tab is closed", "bad"],
  opened: ["the tab is opened again", "plain"],
};

/** @param {Known} known */
function browser({ marks, confirmed }) {
  const dots = marks.flatMap(({ what, at }) => (SEEN[what] ? [{ at, text: SEEN[what][0], look: SEEN[what][1] }] : []));
  const active = marks.find(({ what }) => what === "active");
  const away = marks.some(({ what }) => what === "closed");
  const said = active
    ? confirmed
      ? `active after ${span(active.at)}`
      : "says active"
    : away
      ? "the tab is closed"
      : confirmed
        ? "waits"
        : "was not there";
  return { dots, said, spans: /** @type {Span[]} */ ([]) };
}

/** @param {Known} known */
function socket({ steps }) {
  /** @type {Span[]} */ const spans = [];
  /** @type {Dot[]} */ const dots = [];
  let lost = 0;
  for (const { what, at, detail } of steps) {
    if (what === "socket_opened") {
      spans.push({ from: at, to: null, look: "open" });
      dots.push({ at, look: "plain", text: "opened" });
    } else if (what === "delivered" || what === "socket_lost") {
      const open = spans.find(({ to }) => to === null);
      if (open) open.to = at;
      const gone = what === "socket_lost";
      if (gone) lost += 1;
      const text = gone ? (detail.reason === "restarting" ? "sent away: restarting" : "lost") : TOLD;
      dots.push({ at, look: gone ? "bad" : "plain", text });
    }
  }
  const told = steps.find(({ what }) => what === "delivered");
  const open = spans.some(({ to }) => to === null);
  const before = lost ? `lost ${times(lost)}, ` : "";
  const said = told ? `${before}told it` : open ? `${before}listens` : lost ? "lost" : "never opened";
  return { spans, dots, said };
}

/** Questions to Stripe on one road, each from asked to answered, or to its process's end. @param {Known} known @param {string} of */
function questions({ steps, away }, of) {
  /** @type {Span[]} */ const spans = [];
  /** @type {Dot[]} */ const dots = [];
  for (const { what, at, detail } of steps.filter(({ detail }) => detail.source === of)) {
    if (what === "verification_asked") {
      const unanswered = spans.find(({ to }) => to === null);
      if (unanswered) unanswered.to = at; // its process ended
      spans.push({ from: at, to: null, look: "work" });
    } else if (what === "verification_answered" || what === "verification_failed") {
      const open = spans.find(({ to }) => to === null);
      if (open) open.to = at;
      const failed = what === "verification_failed";
      const succeeded = detail.invoice_status === "paid" || detail.payments?.includes("succeeded");
      const text = failed ? "Stripe did not answer" : succeeded ? "Stripe says paid" : "not paid yet";
      dots.push({ at, look: failed ? "bad" : "plain", text });
    }
  }
  for (const span of spans) {
    const cut = away.find(({ from, to }) => from > span.from && (span.to === null || span.to > (to ?? Infinity)));
    if (cut) span.to = cut.from;
  }
  return { spans, dots };
}

/** @param {Known} known */
function verification(known) {
  const { settled, via } = known;
  const { spans, dots } = questions(known, "verification");
  for (const span of spans) if (span.to === null && settled !== null && via === "verification") span.to = settled;
  const asked = spans.length;
  const failed = dots.filter(({ look }) => look === "bad").length;
  let said = asked ? "waits for Stripe’s answer" : "has not asked";
  if (via === "verification") said = `asked ${times(asked)}, won`;
  else if (settled !== null && spans.some(({ to }) => to === null)) said = "still waits for Stripe";
  else if (settled !== null && asked) said = failed === asked ? "was refused" : dots.length ? "came too late" : "was cut off";
  else if (settled !== null) said = "was not needed";
  else if (failed) said = `refused ${times(failed)}, asks again`;
  else if (asked && spans.every(({ to }) => to !== null)) said = "not paid yet, asks again";
  return { spans, dots, said };
}

/** @param {Known} known */
function webhook(known) {
  const { steps, settled, via, clock } = known;
  const { spans, dots } = questions(known, "webhook");
  const paid = steps.filter(isPaidWebhook);
  const first = paid[0];
  for (const step of paid) {
    const late = settled !== null && step.at > settled;
    dots.push({ at: step.at, look: late ? "late" : "plain", text: `${step.detail.type}` });
  }
  if (!first && clock < UNHEARD_MS) spans.push({ from: 0, to: null, look: "wait" });
  else if (first && first.at > 0) spans.push({ from: 0, to: first.at, look: "wait" });
  let said = clock < UNHEARD_MS ? "on its way…" : "has not come";
  if (first && via === "webhook") said = `came after ${span(Math.max(0, first.at))}, won`;
  else if (first && settled !== null && first.at >= settled) said = `${span(first.at - settled)} later: it was done`;
  else if (first) said = settled === null ? "came" : "came as it was done";
  return { spans, dots, said };
}

/** @param {Known} known */
function reconciliation(known) {
  const { settled, via } = known;
  const { spans, dots } = questions(known, "reconciliation");
  let said = settled === null ? "sweeps every few seconds" : "was not needed";
  if (via === "reconciliation") said = `found it after ${span(Math.max(0, settled ?? 0))}`;
  else if (spans.length) said = "looked";
  return { spans, dots, said };
}

/** @param {Known} known */
function redis({ steps, settled, frozen }) {
  /** @type {Dot[]} */ const dots = [];
  for (const { what, at } of steps.filter(({ at }) => at >= Math.min(0, settled ?? 0))) {
    if (what === "published") dots.push({ at, look: "plain", text: "took the message" });
    if (what === "not_published") dots.push({ at, look: "bad", text: "did not take the message" });
  }
  const spans = frozen.map(({ from, to }) => ({ from, to, look: /** @type {const} */ ("away") }));
  const taken = dots.some(({ look }) => look === "plain");
  let said = taken ? "told every process" : "nothing to tell yet";
  if (frozen.some(({ to }) => to === null)) said = "stopped";
  else if (frozen.length) said = "was stopped for a while";
  else if (dots.length && !taken) said = "did not answer";
  return { dots, spans, said };
}

// ---- Sentences

/** @param {Known} known */
function sentences({ record, steps, marks, settled, via, confirmed, clock }) {
  const webhook = steps.find(isPaidWebhook);
  if (settled === null) return unsettled(record, steps, clock, confirmed);
  const won = ROADS[via ?? ""] ?? "Somebody";
  let headline = `${won} won.`;
  if (via === "verification") {
    if (webhook && webhook.at > settled) headline = `${won} won, ${span(webhook.at - settled)} before the webhook.`;
    else if (webhook) headline = `${won} won; the webhook was being read already.`;
    else headline = clock < UNHEARD_MS ? `${won} won. The webhook is still on its way.` : `${won} won. No webhook came.`;
  } else if (via === "webhook") {
    const answer = steps.find(
      ({ what, at, detail }) => what === "verification_answered" && detail.source === "verification" && at >= settled,
    );
    const asked = steps.some(({ what, detail }) => what === "verification_asked" && detail.source === "verification");
    const refused = steps.some(({ what, detail }) => what === "verification_failed" && detail.source === "verification");
    if (refused) headline = `${won} won; our own questions were turned away.`;
    else if (answer) headline = `${won} won, ${span(answer.at - settled)} before verification had its answer.`;
    else if (asked) headline = `${won} won while verification was still asking.`;
    else headline = `${won} won before anybody had asked.`;
  } else if (via === "reconciliation") {
    if (webhook && webhook.at > settled) headline = `${won} won, ${span(webhook.at - settled)} before the webhook.`;
    else if (!webhook) {
      const watched = marks.some(({ what }) => what === "closed") ? "nobody watched, and " : "";
      headline = `${won} won: ${watched}no webhook had come.`;
    }
  }
  const active = marks.find(({ what }) => what === "active");
  const credited = confirmed ? `Credited ${span(Math.max(0, settled))} after the bank said yes` : "Credited";
  const screen = active && confirmed ? `; on the screen after ${span(active.at)}.` : ".";
  return { headline, detail: credited + screen };
}

/** @param {Purchase} record @param {Step[]} steps @param {number} clock @param {boolean} confirmed */
function unsettled(record, steps, clock, confirmed) {
  if (record.status === "failed") return { headline: "The payment failed.", detail: "There is nothing to credit." };
  const asked = steps.filter(({ what, at }) => what === "verification_asked" && at > 0).length;
  const detail = asked
    ? `Stripe was asked ${times(asked)} so far.`
    : "Stripe has not been asked yet.";
  return { headline: confirmed ? "Paid. Who will know it first?" : "Nobody knows of a payment yet.", detail };
}

// ---- The table

/** @type {Record<string, (detail: Record<string, any>) => [who: string, text: string]>} */
const SAID = {
  created: ({ source: by }) => [by === "webhook" ? NAMES.webhook : "Server", "The invoice is known."],
  socket_opened: () => [NAMES.socket, "Opened on this invoice."],
  socket_lost: ({ reason }) => [NAMES.socket, reason ? `Closed by the server: ${reason}.` : "Lost."],
  verification_asked: ({ source: by }) => [asker(by), "Asks Stripe."],
  verification_answered: ({ source: by, took_ms, invoice_status, payments }) => [
    asker(by),
    `Stripe answers${took_ms ? ` after ${span(took_ms)}` : ""}: the invoice is ${invoice_status}` +
      `${payments ? `, its payment ${payments.join(" and ") || "not made"}` : ""}.`,
  ],
  verification_failed: ({ source: by, error }) => [asker(by), `No answer: ${error}`],
  webhook_received: ({ type, outcome }) => [NAMES.webhook, `Came: ${type}${outcome ? `, ${outcome}` : ""}.`],
  told: ({ source: by, status }) => [asker(by), `The status is ${String(status).replace("_", " ")} now.`],
  settled: ({ source: by, reason }) => [asker(by), `Credited: ${reason}.`],
  refused: ({ source: by, reason }) => [asker(by), `Refused: ${reason}.`],
  reversed: ({ reason }) => ["Stripe", `The money went back: ${reason}.`],
  published: ({ version }) => [NAMES.redis, `Took version ${version}, for every other process.`],
  not_published: ({ version }) => [NAMES.redis, `Did not take version ${version}.`],
  delivered: ({ status }) => [NAMES.socket, `Told: ${status}.`],
};
/** @type {Record<string, [who: string, start: string, end: string]>} */
const DONE = {
  restart: ["Server", "Told to stop.", "A new one is up."],
  redis: [NAMES.redis, "Stopped.", "Goes on."],
};

/** @param {string} of */
const asker = (of) => NAMES[/** @type {LaneId} */ (of)] ?? of;

/** @param {Known} known @returns {Row[]} */
function rowsOf({ steps, marks, away, frozen }) {
  const rows = steps.map(({ at, what, detail }) => {
    const [who, text] = SAID[what]?.(detail) ?? ["Server", what];
    return { at, who, text, within: 0 };
  });
  for (const { what, at, within } of marks) {
    if (SEEN[what]) rows.push({ at, who: NAMES.browser, text: `${capital(SEEN[what][0])}.`, within });
  }
  for (const { what, from, to } of [...away, ...frozen]) {
    const [who, start, end] = DONE[what];
    rows.push({ at: from, who, text: start, within: 0 });
    if (to !== null) rows.push({ at: to, who, text: end, within: 0 });
  }
  return rows.sort((one, other) => one.at - other.at);
}

/** @param {string} text */
const capital = (text) => text[0].toUpperCase() + text.slice(1);

// ---- Scale

/** Ends of the axis that are easy to read: it grows in steps, and stands still between them. */
const ENDS = [0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900].map((s) => s * 1000);

/**
 * What the picture shows: the whole, and, where the race itself would be a speck in it, that part enlarged.
 * @param {Story} story @param {number} clock ms since the origin @returns {{whole: Window, lens: Window|null}}
 */
export function windows(story, clock) {
  const first = Math.min(0, ...dotsOf(story), ...spansOf(story));
  const reach = Math.max(story.last, story.open ? clock : 0, 20);
  const to = story.open
    ? (ENDS.find((end) => end * 0.94 >= reach) ?? reach * 1.1)
    : story.last * 1.06 + 2;
  const pad = Math.max(-first * 1.15, to * 0.015);
  const whole = { from: -pad, to };
  const done = Math.max(story.settled ?? 0, story.painted ?? 0, told(story));
  if (story.settled === null || done <= 0 || done / to > LENS_BELOW) return { whole, lens: null };
  const lens = { from: Math.min(first * 1.15, -done * 0.04), to: done * 1.12 };
  return { whole, lens };
}

/** @param {Story} story */
const dotsOf = ({ lanes }) => lanes.flatMap(({ dots }) => dots.map(({ at }) => at));
/** @param {Story} story */
const spansOf = ({ lanes }) =>
  lanes.flatMap(({ spans }) => spans.map(({ from }) => from).filter((from) => from >= -BEFORE_MS));

/** @param {Story} story when the socket was told, where that was soon after the settlement */
function told({ lanes, settled }) {
  const at = lanes.find(({ id }) => id === "socket")?.dots.find(({ text }) => text === TOLD)?.at ?? 0;
  return settled !== null && at < settled + 1000 ? at : 0;
}

/** From time to place. @param {Window} window @param {number} width */
export const scale =
  ({ from, to }, width) =>
  (/** @type {number} */ at) =>
    ((at - from) / (to - from)) * width;

const STEP_BASES = [1, 2, 5];
const MINUTE_STEPS = [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000];

/**
 * Times to write below the axis: round ones, from nought, none nearer to the next than `apart` pixels.
 * @param {Window} window @param {number} width @param {number} [apart] @returns {{at: number, text: string}[]}
 */
export function ticks({ from, to }, width, apart = 70) {
  const least = ((to - from) / width) * apart;
  const step = stepFor(least);
  const found = [];
  for (let at = 0; at <= to; at += step) found.push({ at, text: tick(at, step) });
  return found;
}

/** @param {number} least */
function stepFor(least) {
  if (least > 500) return MINUTE_STEPS.find((step) => step >= least) ?? Math.ceil(least / 300_000) * 300_000;
  for (let power = 1; ; power *= 10) {
    const base = STEP_BASES.find((base) => base * power >= least);
    if (base) return base * power;
  }
}

/** @param {number} at @param {number} step */
function tick(at, step) {
  if (at === 0) return "0";
  if (step >= 60_000) return `${at / 60_000} min`;
  if (step >= 1000) return `${at / 1000} s`;
  return at < 1000 ? `${at} ms` : `${at / 1000} s`;
}

/**
 * A lane's marks where they are drawn; spans that are not over end at `clock`. What lies outside is left out.
 * @param {Lane} lane @param {Window} window @param {number} width @param {number} clock
 */
export function place({ dots, spans }, window, width, clock) {
  const x = scale(window, width);
  const inside = (/** @type {number} */ at) => at >= window.from && at <= window.to;
  return {
    dots: dots.filter(({ at }) => inside(at)).map((dot) => ({ ...dot, x: x(dot.at) })),
    spans: spans
      .map((span) => ({
        ...span,
        from: Math.max(span.from, window.from),
        to: Math.min(span.to ?? Math.max(clock, span.from), window.to),
      }))
      .filter(({ from, to }) => to > from)
      .map(({ from, to, look }) => ({ look, x: x(from), width: x(to) - x(from) })),
  };
}
