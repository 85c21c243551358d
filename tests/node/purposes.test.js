/** What a payment that waits is for: the customer reads it. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";

import { purposeOf } from "../../client_demo/paidup_demo/lib/account_text.js";

const PRO = { id: "pro", name: "Pro" };
const EXTRA = { id: "extra", name: "Extra credits", top_up: true };

describe("a payment", () => {
  it("follows Stripe's billing reason", () => {
    assert.equal(purposeOf({ reason: "subscription_create" }, PRO), "plan");
    assert.equal(purposeOf({ reason: "subscription_cycle" }, PRO), "renewal");
    assert.equal(purposeOf({ reason: "subscription_update" }, PRO), "change");
  });

  it("is a top-up if it is manual and for a top-up plan", () => {
    assert.equal(purposeOf({ reason: "manual" }, EXTRA), "top-up");
  });

  it("is a plan's if the reason is missing or unknown", () => {
    assert.equal(purposeOf({ reason: null }, PRO), "plan");
    assert.equal(purposeOf({ reason: "subscription_threshold" }, undefined), "plan");
  });
});
