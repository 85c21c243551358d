CREATE TABLE "tortoise_migrations" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "app" VARCHAR(255) NOT NULL,
    "name" VARCHAR(255) NOT NULL,
    "applied_at" TIMESTAMP NOT NULL,
    CONSTRAINT "uid_tortoise_mi_app_3803a5" UNIQUE ("app", "name")
);
CREATE TABLE "accounts" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "external_id" VARCHAR(200) NOT NULL UNIQUE,
    "stripe_customer" VARCHAR(255)  UNIQUE,
    "balance" BIGINT NOT NULL,
    "purchase_number" INT NOT NULL,
    "created_at" TIMESTAMP NOT NULL
, "version" INT NOT NULL DEFAULT 0, "low_balance" BIGINT, "merged_into" INT, "held" BIGINT NOT NULL DEFAULT 0, "known_subscriptions" JSON, "unit_balances" JSON);
CREATE TABLE "invoices" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "customer" VARCHAR(255) NOT NULL,
    "subscription" VARCHAR(255),
    "payment_intent" VARCHAR(255),
    "plan" VARCHAR(40),
    "price" VARCHAR(255),
    "billing_reason" VARCHAR(60),
    "currency" VARCHAR(3) NOT NULL,
    "amount_due_minor" BIGINT NOT NULL,
    "credits_quoted" BIGINT NOT NULL,
    "status" VARCHAR(20) NOT NULL  /* OPEN: open\nREQUIRES_ACTION: requires_action\nPROCESSING: processing\nACTIVE: active\nFAILED: failed\nVOID: void\nREVERSED: reversed */,
    "error" JSON,
    "version" INT NOT NULL,
    "published_version" INT NOT NULL,
    "publish_due_at" TIMESTAMP,
    "changed_at" TIMESTAMP NOT NULL,
    "settled_via" VARCHAR(20)   /* VERIFICATION: verification\nWEBHOOK: webhook\nRECONCILIATION: reconciliation */,
    "settled_at" TIMESTAMP,
    "lease_expires_at" TIMESTAMP,
    "next_check_at" TIMESTAMP,
    "checks_made" INT NOT NULL,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT
, "finalized_at" TIMESTAMP, "credits_reversed" BIGINT NOT NULL DEFAULT 0, "credits_unrecoverable" BIGINT NOT NULL DEFAULT 0, "from_balance_minor" BIGINT NOT NULL DEFAULT 0, "has_reversals" INT NOT NULL DEFAULT 0, "affects_others" INT NOT NULL DEFAULT 0, "quote" JSON, "sequence" INT NOT NULL DEFAULT 0, "total_minor" BIGINT NOT NULL DEFAULT 0, "credits_forgiven" BIGINT NOT NULL DEFAULT 0, "credits_owed" BIGINT NOT NULL DEFAULT 0, "reserved_through" BIGINT NOT NULL DEFAULT 0, "credits_offset" BIGINT NOT NULL DEFAULT 0, "payment_seen_at" TIMESTAMP, "checkout" VARCHAR(255), "credits_on_trust" BIGINT NOT NULL DEFAULT 0, "debit_failed" INT NOT NULL DEFAULT 0, "payment_method" VARCHAR(40), "processing_since" TIMESTAMP, "voucher" JSON, "traceparent" VARCHAR(55), "provisioning_until" TIMESTAMP, "unit_credits" JSON);
CREATE INDEX "idx_invoices_subscri_fd36cb" ON "invoices" ("subscription");
CREATE INDEX "idx_invoices_payment_042a8d" ON "invoices" ("payment_intent");
CREATE INDEX "idx_invoices_publish_04aea1" ON "invoices" ("publish_due_at");
CREATE INDEX "idx_invoices_settled_ab8082" ON "invoices" ("settled_at");
CREATE INDEX "idx_invoices_next_ch_bcaea1" ON "invoices" ("next_check_at");
CREATE TABLE "credit_grants" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "installment" INT NOT NULL,
    "credits" BIGINT NOT NULL,
    "remaining" BIGINT NOT NULL,
    "expires_at" TIMESTAMP,
    "state" VARCHAR(10) NOT NULL  /* LIVE: live\nEXPIRED: expired\nREVERSED: reversed */,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT,
    "invoice_id" VARCHAR(255) REFERENCES "invoices" ("id") ON DELETE RESTRICT, "due_at" TIMESTAMP, "expired" BIGINT NOT NULL DEFAULT 0, "frozen" BIGINT NOT NULL DEFAULT 0, "plan" VARCHAR(40), "rollover_cap" BIGINT NOT NULL DEFAULT 0, "usable_until" TIMESTAMP, "correction" VARCHAR(40), "unit" VARCHAR(30) NOT NULL DEFAULT '',
    CONSTRAINT "uid_credit_gran_invoice_87b056" UNIQUE ("invoice_id", "installment")
);
CREATE TABLE "prices" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "lookup_key" VARCHAR(200) NOT NULL,
    "plan" VARCHAR(40) NOT NULL,
    "unit_amount_minor" BIGINT NOT NULL,
    "currency" VARCHAR(3) NOT NULL
, "interval" VARCHAR(10) NOT NULL  /* MONTH: month\nYEAR: year\nONCE: once */ DEFAULT 'month', "currency_options" JSON, "product" VARCHAR(255));
CREATE TABLE "ledger_entries" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "kind" VARCHAR(10) NOT NULL  /* GRANT: grant\nSPEND: spend\nREVERSE: reverse\nEXPIRE: expire\nADJUST: adjust */,
    "credits" BIGINT NOT NULL,
    "reference" VARCHAR(400) NOT NULL,
    "balance_after" BIGINT NOT NULL,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT,
    "grant_id" INT REFERENCES "credit_grants" ("id") ON DELETE RESTRICT, "reason" VARCHAR(200) NOT NULL DEFAULT '', "unit" VARCHAR(30) NOT NULL DEFAULT '',
    CONSTRAINT "uid_ledger_entr_kind_d45cbd" UNIQUE ("kind", "reference")
);
CREATE TABLE "stripe_events" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "type" VARCHAR(100) NOT NULL,
    "api_version" VARCHAR(40),
    "payload" TEXT NOT NULL,
    "source" VARCHAR(10) NOT NULL  /* WEBHOOK: webhook\nLIST: list */,
    "received_at" TIMESTAMP NOT NULL,
    "handled_at" TIMESTAMP,
    "attempts" INT NOT NULL,
    "next_attempt_at" TIMESTAMP,
    "outcome" VARCHAR(200),
    "error" TEXT
, "dismissed_by" VARCHAR(200), "dismissed_because" TEXT);
CREATE INDEX "idx_stripe_even_receive_276579" ON "stripe_events" ("received_at");
CREATE INDEX "idx_stripe_even_handled_fc6909" ON "stripe_events" ("handled_at");
CREATE INDEX "idx_stripe_even_next_at_d5e28f" ON "stripe_events" ("next_attempt_at");
CREATE TABLE "timeline" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "invoice" VARCHAR(255) NOT NULL,
    "at" TIMESTAMP NOT NULL,
    "event_type" VARCHAR(40) NOT NULL,
    "detail" JSON
);
CREATE INDEX "idx_timeline_invoice_475c70" ON "timeline" ("invoice");
CREATE TABLE "watermarks" (
    "name" VARCHAR(40) NOT NULL  PRIMARY KEY,
    "value" VARCHAR(255) NOT NULL,
    "moved_at" TIMESTAMP NOT NULL
);
CREATE TABLE "reservations" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "key" VARCHAR(200) NOT NULL,
    "credits" BIGINT NOT NULL,
    "used" BIGINT NOT NULL,
    "sources" JSON NOT NULL,
    "state" VARCHAR(10) NOT NULL  /* HELD: held\nCOMMITTED: committed\nRELEASED: released\nEXPIRED: expired */,
    "expires_at" TIMESTAMP NOT NULL,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT, "unit" VARCHAR(30) NOT NULL DEFAULT '',
    CONSTRAINT "uid_reservation_account_437ac1" UNIQUE ("account_id", "key")
);
CREATE INDEX "idx_reservation_state_2e3762" ON "reservations" ("state", "expires_at");
CREATE TABLE "reversals" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "kind" VARCHAR(12) NOT NULL  /* REFUND: refund\nDISPUTE: dispute\nCREDIT_NOTE: credit_note */,
    "amount_minor" BIGINT NOT NULL,
    "status" VARCHAR(40) NOT NULL,
    "changed_at" TIMESTAMP NOT NULL,
    "invoice_id" VARCHAR(255) NOT NULL REFERENCES "invoices" ("id") ON DELETE RESTRICT
, "withdrawn" INT, "fetched_at" TIMESTAMP, "changes" INT NOT NULL DEFAULT 0);
CREATE INDEX "idx_reversals_invoice_5ea8ca" ON "reversals" ("invoice_id");
CREATE TABLE "subscriptions" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "status" VARCHAR(30) NOT NULL,
    "plan" VARCHAR(40),
    "price" VARCHAR(255),
    "quantity" INT NOT NULL,
    "pending_plan" VARCHAR(40),
    "current_period_end" TIMESTAMP,
    "cancel_at" TIMESTAMP,
    "ended_at" TIMESTAMP,
    "latest_invoice" VARCHAR(255),
    "fetched_at" TIMESTAMP,
    "refresh_at" TIMESTAMP,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT
, "paid_elsewhere" VARCHAR(255), "collection_paused" INT NOT NULL DEFAULT 0, "collection_at" TIMESTAMP);
CREATE INDEX "idx_subscriptio_read_du_6e8108" ON "subscriptions" ("refresh_at");
CREATE TABLE "stripe_customers" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "deleted_at" TIMESTAMP,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT NOT NULL REFERENCES "accounts" ("id") ON DELETE RESTRICT
);
CREATE INDEX "idx_stripe_cust_account_5de98c" ON "stripe_customers" ("account_id");
CREATE TABLE "stripe_reads" (
    "month" VARCHAR(7) NOT NULL  PRIMARY KEY,
    "reads" BIGINT NOT NULL
);
CREATE TABLE "checkout_sessions" (
    "id" VARCHAR(255) NOT NULL  PRIMARY KEY,
    "mode" VARCHAR(20) NOT NULL,
    "purchase" VARCHAR(60),
    "status" VARCHAR(20) NOT NULL,
    "payment_status" VARCHAR(30) NOT NULL,
    "plan" VARCHAR(40),
    "price" VARCHAR(255),
    "quantity" INT NOT NULL,
    "currency" VARCHAR(3),
    "amount_minor" BIGINT,
    "customer" VARCHAR(255),
    "client_reference" VARCHAR(255),
    "payment_intent" VARCHAR(255),
    "subscription" VARCHAR(255),
    "invoice" VARCHAR(255),
    "return_to" VARCHAR(2000),
    "superseded_by" VARCHAR(255),
    "duplicate_of" VARCHAR(255),
    "resolution" VARCHAR(20),
    "resolved_at" TIMESTAMP,
    "claimed_at" TIMESTAMP,
    "expires_at" TIMESTAMP NOT NULL,
    "completed_at" TIMESTAMP,
    "fetched_at" TIMESTAMP,
    "lease_expires_at" TIMESTAMP,
    "next_check_at" TIMESTAMP,
    "checks_made" INT NOT NULL,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT REFERENCES "accounts" ("id") ON DELETE RESTRICT
, "named_by_payer" INT NOT NULL DEFAULT 0);
CREATE INDEX "idx_checkout_se_payment_a6da44" ON "checkout_sessions" ("payment_intent");
CREATE INDEX "idx_checkout_se_subscri_79fa43" ON "checkout_sessions" ("subscription");
CREATE INDEX "idx_checkout_se_invoice_f439ab" ON "checkout_sessions" ("invoice");
CREATE INDEX "idx_checkout_se_complet_444467" ON "checkout_sessions" ("completed_at");
CREATE INDEX "idx_checkout_se_next_ch_a66987" ON "checkout_sessions" ("next_check_at");
CREATE INDEX "idx_checkout_se_account_41543b" ON "checkout_sessions" ("account_id", "status");
CREATE INDEX "idx_checkout_se_duplica_d2523a" ON "checkout_sessions" ("duplicate_of");
CREATE TABLE "event_endpoints" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "name" VARCHAR(255) NOT NULL UNIQUE,
    "url" VARCHAR(2000) NOT NULL,
    "types" JSON NOT NULL,
    "secret" VARCHAR(255) NOT NULL,
    "old_secret" VARCHAR(255),
    "old_secret_until" TIMESTAMP,
    "state" VARCHAR(10) NOT NULL  /* ENABLED: enabled\nDISABLED: disabled\nDELETED: deleted */,
    "disabled_at" TIMESTAMP,
    "disabled_because" VARCHAR(400),
    "from_settings" INT NOT NULL,
    "failures" INT NOT NULL,
    "failing_since" TIMESTAMP,
    "retry_at" TIMESTAMP,
    "created_at" TIMESTAMP NOT NULL
);
CREATE TABLE "outbound_events" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "message" VARCHAR(40) NOT NULL UNIQUE,
    "type" VARCHAR(60) NOT NULL,
    "invoice" VARCHAR(255),
    "subscription" VARCHAR(255),
    "version" INT NOT NULL,
    "balance" BIGINT,
    "data" JSON NOT NULL,
    "fanned_out" INT NOT NULL,
    "created_at" TIMESTAMP NOT NULL,
    "account_id" INT REFERENCES "accounts" ("id") ON DELETE RESTRICT
);
CREATE INDEX "idx_outbound_ev_invoice_79900b" ON "outbound_events" ("invoice");
CREATE INDEX "idx_outbound_ev_account_647784" ON "outbound_events" ("account_id", "id");
CREATE INDEX "idx_outbound_ev_id_c63e30" ON "outbound_events" ("id") WHERE fanned_out = false;
CREATE TABLE "event_deliveries" (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    "account_id" INT,
    "state" VARCHAR(10) NOT NULL  /* PENDING: pending\nDELIVERED: delivered\nDEAD: dead */,
    "attempts" INT NOT NULL,
    "next_attempt_at" TIMESTAMP,
    "last_attempt_at" TIMESTAMP,
    "delivered_at" TIMESTAMP,
    "replayed_at" TIMESTAMP,
    "status_code" INT,
    "answer" TEXT,
    "error" VARCHAR(200),
    "duration_ms" INT,
    "created_at" TIMESTAMP NOT NULL,
    "endpoint_id" INT NOT NULL REFERENCES "event_endpoints" ("id") ON DELETE RESTRICT,
    "event_id" BIGINT NOT NULL REFERENCES "outbound_events" ("id") ON DELETE CASCADE,
    CONSTRAINT "uid_event_deliv_event_i_b485dd" UNIQUE ("event_id", "endpoint_id")
);
CREATE INDEX "idx_event_deliv_endpoin_0da64b" ON "event_deliveries" ("endpoint_id", "next_attempt_at") WHERE state = 'pending';
CREATE INDEX "idx_event_deliv_endpoin_e5b49a" ON "event_deliveries" ("endpoint_id", "id") WHERE state = 'dead';
CREATE TABLE "audit_log" (
    "id" VARCHAR(40) NOT NULL  PRIMARY KEY,
    "at" TIMESTAMP NOT NULL,
    "actor" VARCHAR(200) NOT NULL,
    "action" VARCHAR(20) NOT NULL,
    "key" VARCHAR(200) NOT NULL UNIQUE,
    "digest" VARCHAR(64) NOT NULL,
    "reason" TEXT NOT NULL,
    "details" JSON NOT NULL,
    "before" JSON NOT NULL,
    "after" JSON NOT NULL,
    "account_id" INT REFERENCES "accounts" ("id") ON DELETE RESTRICT
);
CREATE INDEX "idx_audit_log_at_63718d" ON "audit_log" ("at");
CREATE INDEX "idx_audit_log_account_8988e4" ON "audit_log" ("account_id");
CREATE UNIQUE INDEX "uid_credit_grants_correction" ON "credit_grants" ("correction");
CREATE INDEX "idx_credit_gran_expires_a0640c" ON "credit_grants" ("expires_at") WHERE state = 'live' AND remaining > 0;
CREATE INDEX "idx_reservation_account_deec69" ON "reservations" ("account_id") WHERE state = 'held';
CREATE INDEX "idx_accounts_merged__b4a8f3" ON "accounts" ("merged_into") WHERE merged_into IS NOT NULL;
CREATE INDEX "idx_checkout_se_client__8467a4" ON "checkout_sessions" ("client_reference") WHERE client_reference IS NOT NULL;
CREATE INDEX "idx_credit_gran_account_4fa225" ON "credit_grants" ("account_id", "state", "usable_until");
CREATE INDEX "idx_credit_gran_due_at_64721c" ON "credit_grants" ("due_at") WHERE state = 'planned';
CREATE INDEX "idx_credit_gran_account_9b50f1" ON "credit_grants" ("account_id", "state", "rollover_cap") WHERE state = 'live' AND remaining <> 0 AND rollover_cap > 0;
CREATE INDEX "idx_credit_gran_account_f907b2" ON "credit_grants" ("account_id", "state", "expires_at", "id") WHERE state = 'live' AND remaining <> 0;
CREATE INDEX "idx_invoices_has_reversals" ON "invoices" ("account_id") WHERE has_reversals;
CREATE INDEX "idx_invoices_affects_others" ON "invoices" ("account_id") WHERE affects_others;
CREATE INDEX "idx_ledger_entr_account_4e29d9" ON "ledger_entries" ("account_id", "id");
CREATE INDEX "idx_invoices_account_2ea634" ON "invoices" ("account_id", "status", "created_at");
CREATE INDEX "idx_stripe_events_unhandled" ON "stripe_events" ("received_at") WHERE outcome = 'unhandled_type';
CREATE INDEX "idx_event_deliveries_order" ON "event_deliveries" ("endpoint_id", "account_id", "event_id") WHERE state = 'pending' AND replayed_at IS NULL;
CREATE INDEX "idx_event_deliveries_replays" ON "event_deliveries" ("endpoint_id", "account_id", "event_id") WHERE state = 'pending' AND replayed_at IS NOT NULL;
CREATE INDEX "idx_subscriptio_account_c14c9d" ON "subscriptions" ("account_id", "created_at", "id");
CREATE INDEX "idx_subscriptions_not_ended" ON "subscriptions" ("account_id", "created_at", "id") WHERE status NOT IN ('canceled', 'incomplete_expired');
CREATE INDEX "idx_checkout_se_account_c8dd80" ON "checkout_sessions" ("account_id", "created_at") WHERE invoice IS NULL AND status IN ('complete', 'open');
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0001_initial', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0002_life_of_a_plan', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0003_held_credits', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0004_rename_columns', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0005_stripe_customers', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0006_price_products', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0007_credits_offset', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0008_own_subscriptions', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0009_reversals_as_read', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0010_renewal_grace', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0011_dismissed_events', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0012_stripe_reads', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0013_payment_seen', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0014_grace_of_older_grants', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0015_checkout_sessions', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0016_bank_debits', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0017_second_payments', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0018_outbound_events', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0019_corrections', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0020_operators_word', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0021_vouchers', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0022_named_by_payer', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0023_entitlements', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0024_traces', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0025_provisioning', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0026_units', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0027_merged_accounts', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0028_client_references', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0029_long_histories', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0030_flat_reads', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0031_outbound_order', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('paidup', '0032_ended_lives', strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'));
