/** S57: Held credits do not look spent. What the demo's account page says beside the balance. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { balanceParts } from "../../client_demo/paidup_demo/lib/account_text.js";

const credits = (more) => ({ balance: 1700, grants: [], activating: null, renewing: null, held: 0, expiring: [], ...more });

test("held credits are named as not spent, and the next that expire with their day", () => {
  assert.equal(balanceParts(credits({})), "");
  assert.match(balanceParts(credits({ held: 300 })), /^300 credits held for work that still runs: not spent\.$/);
  const expiring = [{ at: "2026-12-24T12:00:00Z", credits: 500 }, { at: "2027-01-24T12:00:00Z", credits: 1 }];
  assert.match(balanceParts(credits({ expiring })), /^500 credits to use by .*24.*\.$/);
  assert.match(balanceParts(credits({ held: 1, expiring })), /^1 credit held .* spent\. 500 credits to use by .*\.$/);
});
