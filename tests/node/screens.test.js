// What the screens of the demo offer, and in which order.
import { deepStrictEqual as same, notStrictEqual } from "node:assert/strict";
import { test } from "node:test";

import { screen } from "../../client_demo/paidup_demo/lib/text.js";

const KNOWN = { plan: "Pro", credits: 2000, confirmed: true, online: true, error: null, reference: "in_1" };

for (const stage of ["delayed", "action_required", "failed", "reversed", "void", "awaiting_payment"])
  test(`what a customer can do about a payment comes before the way home: ${stage}`, () => {
    const [first, ...others] = screen(/** @type {any} */ (stage), KNOWN).actions.map(({ action }) => action);
    notStrictEqual(first, "home");
    same(others, ["home"]);
  });
