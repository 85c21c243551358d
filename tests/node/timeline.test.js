/** The race worked out: who won and by how much, what is drawn where, and which times stand below the axis. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { place, scale, span, story, ticks, unbroken, windows } from "../../client_demo/paidup_demo/timeline/layout.js";

const BEGIN = 1_000_000;

/** Steps as [ms since the bank said yes, what, detail]. */
const steps = (...rows) => rows.map(([at, what, detail = {}]) => ({ at: BEGIN + at, what, detail }));
const asked = (at, source = "verification") => [at, "verification_asked", { source }];
const answered = (at, source = "verification") => [
  at,
  "verification_answered",
  { source, invoice_status: "paid", payments: ["succeeded"] },
];
const settled = (at, source) => [at, "settled", { source, reason: "the invoice is paid", status: "active" }];
const webhook = (at, type = "invoice.paid") => [at, "webhook_received", { type, event: "evt_1" }];

/** @param {any[]} rows */
function purchase(rows, { marks = [["confirmed", 0]], moments = [] } = {}) {
  return {
    invoice: "in_1",
    status: "open",
    steps: steps(...rows),
    moments: moments.map(([what, began, ended]) => ({
      what,
      began: BEGIN + began,
      ended: ended === null ? null : BEGIN + ended,
    })),
    marks: marks.map(([what, at]) => ({ what, at: BEGIN + at, within: 2 })),
  };
}

const told = (rows, more, now = 100) => story(purchase(rows, more), BEGIN + now);
const lane = (of, id) => of.lanes.find((lane) => lane.id === id);

const WON = [[12, "socket_opened"], asked(20), answered(40), settled(41, "verification"), [42, "delivered"]];

describe("who won", () => {
  it("verification, by what the webhook came later", () => {
    const late = told([...WON, webhook(4941)], {}, 6000);
    assert.equal(late.headline, "Verification won, 4.9 s before the webhook.");
    assert.equal(late.open, false);
    assert.equal(lane(late, "webhook").said, "4.9 s later: it was done");
    assert.deepEqual(lane(late, "webhook").dots.map(({ at, look }) => [at, look]), [[4941, "late"]]);
  });

  it("verification, with the webhook on its way, and then as one that never came", () => {
    const waiting = told(WON, {}, 2000);
    assert.equal(waiting.headline, "Verification won. The webhook is still on its way.");
    assert.equal(waiting.open, true);
    const never = told(WON, {}, 200_000);
    assert.equal(never.headline, "Verification won. No webhook came.");
    assert.equal(never.open, false);
    assert.deepEqual(lane(never, "webhook").spans, []);
  });

  it("the webhook, by what verification's answer came later", () => {
    const found = told([asked(20), webhook(30), settled(35, "webhook"), answered(2535)]);
    assert.equal(found.headline, "The webhook won, 2.5 s before verification had its answer.");
    assert.equal(lane(found, "verification").said, "came too late");
  });

  it("the webhook, where Stripe turned the questions away", () => {
    const failed = [25, "verification_failed", { source: "verification", error: "429" }];
    const found = told([asked(20), failed, webhook(2000), settled(2010, "webhook")]);
    assert.equal(found.headline, "The webhook won; our own questions were turned away.");
    assert.equal(lane(found, "verification").said, "was refused");
  });

  it("the reconciler, where nobody watched", () => {
    const closed = { marks: [["confirmed", 0], ["closed", 1]] };
    const found = told([asked(20_000, "reconciliation"), settled(20_040, "reconciliation")], closed, 21_000);
    assert.equal(found.headline, "The reconciler won: nobody watched, and no webhook had come.");
    assert.equal(lane(found, "browser").said, "the tab is closed");
    assert.equal(lane(found, "reconciliation").said, "found it after 20 s");
  });

  it("nobody yet", () => {
    const found = told([asked(20), [30, "verification_answered", { source: "verification", invoice_status: "open" }]]);
    assert.equal(found.headline, "Paid. Who will know it first?");
    assert.equal(found.detail, "Stripe was asked once so far.");
    assert.equal(found.settled, null);
  });

  it("is not a message about something else than the payment", () => {
    const found = told([...WON, webhook(10, "invoice.finalized"), webhook(941)], {}, 2000);
    assert.equal(found.headline, "Verification won, 900 ms before the webhook.");
  });
});

describe("the story", () => {
  it("counts from the browser's confirmation, and from the first news where there was none", () => {
    assert.equal(told(WON).origin, BEGIN);
    assert.equal(told([webhook(500), settled(510, "webhook")], { marks: [] }).origin, BEGIN + 500);
  });

  it("ends a question with the process that asked it", () => {
    const again = [asked(20), [400, "socket_lost", { reason: "restarting" }], asked(5000), answered(5010)];
    const found = told(again, { moments: [["restart", 390, 3000]] }, 6000);
    assert.deepEqual(
      lane(found, "verification").spans.map(({ from, to }) => [from, to]),
      [
        [20, 390],
        [5000, 5010],
      ],
    );
    assert.deepEqual(found.away.map(({ from, to }) => [from, to]), [[390, 3000]]);
    assert.ok(found.rows.some(({ who, text }) => who === "Server" && text === "A new one is up."));
  });

  it("keeps what was long before the payment in the table alone", () => {
    const found = told([[-30_000, "created", { source: "verification" }], [-29_990, "published", { version: 1 }], ...WON]);
    assert.equal(found.rows[0].text, "The invoice is known.");
    assert.equal(found.rows[0].at, -30_000);
    for (const { dots } of found.lanes) for (const { at } of dots) assert.ok(at >= 0);
  });

  it("goes on while Redis is stopped", () => {
    const rows = [...WON, webhook(200), [1050, "not_published", { version: 2 }]];
    const stopped = told(rows, { moments: [["redis", 10, null]] }, 2000);
    assert.equal(stopped.open, true);
    assert.equal(lane(stopped, "redis").said, "stopped");
    assert.equal(told(rows, { moments: [["redis", 10, 8010]] }, 9000).open, false);
  });
});

describe("the axis", () => {
  it("is to scale", () => {
    const x = scale({ from: -100, to: 900 }, 500);
    assert.deepEqual([x(-100), x(0), x(400), x(900)], [0, 50, 250, 500]);
  });

  it("has round times, far enough apart for every width", () => {
    for (const width of [280, 720])
      for (const to of [30, 200, 1300, 9000, 61_000, 590_000]) {
        const found = ticks({ from: -to * 0.02, to }, width);
        const apart = (width / (to * 1.02)) * (found[1].at - found[0].at);
        assert.ok(found.length >= 2 && apart >= 69.9, `${to} ms on ${width} px`);
        assert.equal(found[0].text, "0");
      }
    assert.deepEqual(ticks({ from: 0, to: 2600 }, 400).map(({ text }) => text), ["0", "500 ms", "1 s", "1.5 s", "2 s", "2.5 s"]);
  });

  it("grows in steps while it waits, and always holds what has happened", () => {
    const ends = [100, 150, 180, 400, 900, 60_000].map((now) => windows(told(WON.slice(0, 1), {}, now), now).whole.to);
    assert.deepEqual(ends, [200, 200, 200, 500, 1000, 90_000]);
    const late = told([...WON, webhook(60_041)], {}, 70_000);
    const { whole } = windows(late, 70_000);
    assert.ok(whole.from < 0 && whole.to > 60_041 && whole.to < 70_000);
  });

  it("enlarges the race where it is a speck in the whole, and only then", () => {
    const late = told([...WON, webhook(60_041)], { marks: [["confirmed", 0], ["active", 60]] }, 70_000);
    const { lens } = windows(late, 70_000);
    assert.ok(lens && lens.from < 0 && lens.to > 60 && lens.to < 80);
    const close = told([...WON, webhook(90)], {}, 100);
    assert.equal(windows(close, 100).lens, null);
  });

  it("leaves out what is beside it, and draws what lasts up to now", () => {
    const open = { id: "socket", name: "Socket", said: "", dots: [{ at: 50, look: "plain", text: "" }], spans: [] };
    open.spans = [{ from: 20, to: null, look: "open" }];
    const { dots, spans } = place(open, { from: 0, to: 40 }, 400, 30);
    assert.deepEqual(dots, []);
    assert.deepEqual(spans, [{ look: "open", x: 200, width: 100 }]);
  });
});

it("says a length of time as people do", () => {
  const said = [0.4, 41.2, 999.4, 999.6, 4941, 9960, 38_000, 99_400, 125_000].map(span);
  assert.deepEqual(said, ["0 ms", "41 ms", "999 ms", "1.0 s", "4.9 s", "10 s", "38 s", "99 s", "2 min 5 s"]);
});

it("keeps a figure and its unit on one line", () => {
  const said = unbroken("Verification won, 4.9 s before the webhook; on the screen after 41 ms, 2 times.");
  assert.equal(said, "Verification won, 4.9\u00a0s before the webhook; on the screen after 41\u00a0ms, 2 times.");
});
