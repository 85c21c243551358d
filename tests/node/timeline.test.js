/** The timeline's data: which source was first and by how much, what is drawn where, and the axis labels. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { place, scale, ticks, timeWindows } from "../../client_demo/paidup_demo/timeline/axis.js";
import { formatDuration, story, unbroken } from "../../client_demo/paidup_demo/lib/text.js";
import { buildTimeline } from "../../client_demo/paidup_demo/timeline/layout.js";

const BEGIN = 1_000_000;

/** Events from rows of [ms since the bank's confirmation, type, detail]. */
const events = (...rows) => rows.map(([at, type, detail = {}]) => ({ at: BEGIN + at, type, detail }));
const asked = (at, source = "verification") => [at, "verification_asked", { source }];
const answered = (at, source = "verification") => [
  at,
  "verification_answered",
  { source, invoice_status: "paid", payments: ["succeeded"] },
];
const settled = (at, source) => [at, "settled", { source, reason: "the invoice is paid", status: "active" }];
const webhook = (at, type = "invoice.paid") => [at, "webhook_received", { type, event: "evt_1" }];

/** @param {any[]} rows */
function purchase(rows, { marks = [["confirmed", 0]], faults = [] } = {}) {
  return {
    invoice: "in_1",
    status: "open",
    events: events(...rows),
    faults: faults.map(([type, started, ended]) => ({
      type,
      started: BEGIN + started,
      ended: ended === null ? null : BEGIN + ended,
    })),
    marks: marks.map(([type, at]) => ({ type, at: BEGIN + at })),
  };
}

const timelineOf = (rows, more, now = 100) => buildTimeline(purchase(rows, more), BEGIN + now);
const lane = (of, id) => of.lanes.find((lane) => lane.id === id);

const VERIFIED = [[12, "socket_opened"], asked(20), answered(40), settled(41, "verification"), [42, "delivered"]];

describe("the headline", () => {
  it("says by how much verification was ahead of the webhook", () => {
    const late = timelineOf([...VERIFIED, webhook(4941)], {}, 6000);
    assert.equal(late.headline, "Confirmed by verification, 4.9 s before the webhook.");
    assert.equal(late.open, false);
    assert.equal(lane(late, "webhook").summary, "4.9 s later, already credited");
    assert.deepEqual(lane(late, "webhook").dots.map(({ at, look }) => [at, look]), [[4941, "late"]]);
  });

  it("says that no webhook has come yet, since it may have been dropped, and later that none came", () => {
    const waiting = timelineOf(VERIFIED, {}, 2000);
    assert.equal(waiting.headline, "Confirmed by verification. No webhook has come yet.");
    assert.equal(waiting.open, true);
    const never = timelineOf(VERIFIED, {}, 200_000);
    assert.equal(never.headline, "Confirmed by verification. No webhook came.");
    assert.equal(never.open, false);
    assert.deepEqual(lane(never, "webhook").spans, []);
  });

  it("says by how much the webhook was ahead of verification", () => {
    const found = timelineOf([asked(20), webhook(30), settled(35, "webhook"), answered(2535)]);
    assert.equal(found.headline, "Confirmed by the webhook, 2.5 s before verification got its answer.");
    assert.equal(lane(found, "verification").summary, "too late");
  });

  it("says that Stripe refused the verification requests", () => {
    const failed = [25, "verification_failed", { source: "verification", error: "429" }];
    const found = timelineOf([asked(20), failed, webhook(2000), settled(2010, "webhook")]);
    assert.equal(found.headline, "Confirmed by the webhook; Stripe refused our own requests.");
    assert.equal(lane(found, "verification").summary, "refused");
  });

  it("names the reconciler when the tab was closed", () => {
    const closed = { marks: [["confirmed", 0], ["closed", 1]] };
    const found = timelineOf([asked(20_000, "reconciliation"), settled(20_040, "reconciliation")], closed, 21_000);
    assert.equal(found.headline, "Confirmed by the reconciler: the tab was closed and no webhook had come.");
    assert.equal(lane(found, "browser").summary, "the tab is closed");
    assert.equal(lane(found, "reconciliation").summary, "found after 20 s");
  });

  it("waits for the first source", () => {
    const found = timelineOf([asked(20), [30, "verification_answered", { source: "verification", invoice_status: "open" }]]);
    assert.equal(found.headline, "Paid. Waiting for the first source to confirm it.");
    assert.equal(found.detail, "Stripe was asked once so far.");
    assert.equal(found.settled, null);
  });

  it("counts no requests where a plan change settled, and from no confirmation that it has not seen", () => {
    const unseen = { marks: [] };
    assert.equal(lane(timelineOf([webhook(0), settled(5, "verification")], unseen), "verification").summary, "first");
    assert.equal(lane(timelineOf([webhook(0), settled(5, "webhook")], unseen), "webhook").summary, "first");
    assert.equal(lane(timelineOf([webhook(30), settled(35, "webhook")]), "webhook").summary, "after 30 ms, first");
  });

  it("ignores webhooks that do not report the payment", () => {
    const found = timelineOf([...VERIFIED, webhook(10, "invoice.finalized"), webhook(941)], {}, 2000);
    assert.equal(found.headline, "Confirmed by verification, 900 ms before the webhook.");
  });
});

describe("the sentence about what was just seen", () => {
  const told = (via, rows, now, after = 84) => {
    const { webhook, missed } = timelineOf(rows, {}, now);
    const { line, why } = story({ via, after, webhook, missed });
    return `${line} ${why}`.replaceAll("\u00a0", " ");
  };
  const READY = "Your credits were ready 84 ms after your bank’s confirmation.";

  it("says how long the webhook took, and what it would have meant", () => {
    assert.equal(
      told("verification", [...VERIFIED, webhook(6241)], 7000),
      `${READY} Stripe’s webhook arrived 6.2 s later; without Paidup you would have waited for it.`,
    );
  });

  it("says that the webhook has not arrived yet, and in the end that it never did", () => {
    const waiting = told("verification", VERIFIED, 2000);
    assert.equal(waiting, `${READY} Stripe’s webhook has not arrived yet; without Paidup you would still be waiting for it.`);
    assert.match(told("verification", VERIFIED, 200_000), /webhook never arrived; without Paidup you would still be waiting/);
  });

  it("says that the webhook was first, or at the same time", () => {
    assert.match(told("webhook", [webhook(30), settled(35, "webhook")], 100), /Stripe’s webhook was first this time\./);
    assert.match(told("verification", [webhook(39), ...VERIFIED], 100), /Stripe’s webhook arrived at the same time\./);
  });

  it("says that the regular check found the payment", () => {
    const rows = [settled(20_040, "reconciliation")];
    assert.match(told("reconciliation", rows, 21_000), /regular check found it\. Stripe’s webhook had not arrived\./);
  });

  it("names no time that this browser did not measure, and nothing where nothing was paid", () => {
    assert.match(told("verification", VERIFIED, 100, null), /^Your credits are ready\. /);
    assert.equal(story({ via: null, after: null, webhook: null, missed: false }), null);
  });
});

describe("the timeline", () => {
  it("counts from the browser's confirmation, or from the first event about the payment", () => {
    assert.equal(timelineOf(VERIFIED).origin, BEGIN);
    assert.equal(timelineOf([webhook(500), settled(510, "webhook")], { marks: [] }).origin, BEGIN + 500);
  });

  it("ends a request to Stripe with the process that made it", () => {
    const again = [asked(20), [400, "socket_lost", { reason: "restarting" }], asked(5000), answered(5010)];
    const found = timelineOf(again, { faults: [["restart", 390, 3000]] }, 6000);
    assert.deepEqual(
      lane(found, "verification").spans.map(({ from, to }) => [from, to]),
      [
        [20, 390],
        [5000, 5010],
      ],
    );
    assert.deepEqual(found.restarts.map(({ from, to }) => [from, to]), [[390, 3000]]);
    assert.ok(found.rows.some(({ who, text }) => who === "Server" && text === "A new process is ready."));
  });

  it("lists events from long before the payment in the table only", () => {
    const found = timelineOf([[-30_000, "created", { source: "verification" }], [-29_990, "published", { version: 1 }], ...VERIFIED]);
    assert.equal(found.rows[0].text, "Invoice created.");
    assert.equal(found.rows[0].at, -30_000);
    for (const { dots } of found.lanes) for (const { at } of dots) assert.ok(at >= 0);
  });

  it("stays open while Redis is stopped", () => {
    const rows = [...VERIFIED, webhook(200), [1050, "not_published", { version: 2 }]];
    const stopped = timelineOf(rows, { faults: [["redis", 10, null]] }, 2000);
    assert.equal(stopped.open, true);
    assert.equal(lane(stopped, "redis").summary, "stopped");
    assert.equal(timelineOf(rows, { faults: [["redis", 10, 8010]] }, 9000).open, false);
  });
});

describe("the axis", () => {
  it("is to scale", () => {
    const x = scale({ from: -100, to: 900 }, 500);
    assert.deepEqual([x(-100), x(0), x(400), x(900)], [0, 50, 250, 500]);
  });

  it("has round labels, far enough apart at every width", () => {
    for (const width of [280, 720])
      for (const to of [30, 200, 1300, 9000, 61_000, 590_000]) {
        const found = ticks({ from: -to * 0.02, to }, width);
        const apart = (width / (to * 1.02)) * (found[1].at - found[0].at);
        assert.ok(found.length >= 2 && apart >= 69.9, `${to} ms on ${width} px`);
        assert.equal(found[0].text, "0");
      }
    assert.deepEqual(ticks({ from: 0, to: 2600 }, 400).map(({ text }) => text), ["0", "500 ms", "1 s", "1.5 s", "2 s", "2.5 s"]);
  });

  it("grows in steps while waiting, and always contains every event", () => {
    const ends = [100, 150, 180, 400, 900, 60_000].map((now) => timeWindows(timelineOf(VERIFIED.slice(0, 1), {}, now), now).whole.to);
    assert.deepEqual(ends, [200, 200, 200, 500, 1000, 90_000]);
    const late = timelineOf([...VERIFIED, webhook(60_041)], {}, 70_000);
    const { whole } = timeWindows(late, 70_000);
    assert.ok(whole.from < 0 && whole.to > 60_041 && whole.to < 70_000);
  });

  it("enlarges the activation only if it would be too small to see", () => {
    const late = timelineOf([...VERIFIED, webhook(60_041)], { marks: [["confirmed", 0], ["active", 60]] }, 70_000);
    const { lens } = timeWindows(late, 70_000);
    assert.ok(lens && lens.from < 0 && lens.to > 60 && lens.to < 80);
    const close = timelineOf([...VERIFIED, webhook(90)], {}, 100);
    assert.equal(timeWindows(close, 100).lens, null);
  });

  it("leaves out what lies outside the window, and ends open spans at the current time", () => {
    const open = { id: "socket", name: "Socket", summary: "", dots: [{ at: 50, look: "plain", text: "" }], spans: [] };
    open.spans = [{ from: 20, to: null, look: "open" }];
    const { dots, spans } = place(open, { from: 0, to: 40 }, 400, 30);
    assert.deepEqual(dots, []);
    assert.deepEqual(spans, [{ look: "open", x: 200, width: 100 }]);
  });
});

it("formats durations for reading", () => {
  const said = [0.4, 41.2, 999.4, 999.6, 4941, 9960, 38_000, 99_400, 125_000].map(formatDuration);
  assert.deepEqual(said, ["0 ms", "41 ms", "999 ms", "1.0 s", "4.9 s", "10 s", "38 s", "99 s", "2 min 5 s"]);
});

it("keeps a number and its unit on one line", () => {
  const said = unbroken("Confirmed by verification, 4.9 s before the webhook; on the screen after 41 ms, 2 times.");
  assert.equal(said, "Confirmed by verification, 4.9\u00a0s before the webhook; on the screen after 41\u00a0ms, 2 times.");
});

it("a timeline without events begins now, and not in 1970", () => {
  const empty = timelineOf([], { marks: [] });
  assert.equal(empty.origin, BEGIN + 100);
  assert.ok(timeWindows(empty, 0).whole.to < 1000);
});
