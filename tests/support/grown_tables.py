"""Statements for PostgreSQL that fill the tables with what was settled, handled and delivered long ago.

Each account has one paid invoice, with its subscription, Checkout Session, grant, entry and event of
Stripe's, a reservation, an outbound event that was delivered, a correction, and a line of the timeline. One
of a hundred events of Stripe's is of a type that is not handled. In all the same small number is due: open
invoices, and events that were not handled.
"""

from __future__ import annotations

from paidup.stripe_api.client import API_VERSION

DUE = 20

# Some kept texts are longer in reality. How many rows a statement reads does not depend on it.
_FILL = """
INSERT INTO accounts (external_id, stripe_customer, balance, purchase_number, created_at,
    known_subscriptions)
SELECT 'user-' || n, 'cus_' || n, 2000, 1, now(), jsonb_build_array(jsonb_build_object('id', 'sub_' || n,
    'status', 'active', 'plan', 'pro', 'pending_plan', NULL, 'latest_invoice', 'in_' || n, 'quantity', 1,
    'current_period_end', date_trunc('second', now()) + interval '20 days', 'cancel_at', NULL))
    FROM generate_series(1, {count}) n;
INSERT INTO invoices (id, account_id, customer, payment_intent, subscription, plan, currency,
    amount_due_minor, credits_quoted, status, version, published_version, changed_at, settled_via,
    settled_at, checks_made, created_at)
SELECT 'in_' || n, n, 'cus_' || n, 'pi_' || n, 'sub_' || n, 'pro', 'usd', 2900, 2000, 'active', 2, 2,
    now() - interval '40 days', 'webhook', now() - interval '40 days', 1, now() - interval '40 days'
    FROM generate_series(1, {count}) n;
INSERT INTO credit_grants (account_id, invoice_id, installment, plan, credits, remaining, state, created_at)
SELECT n, 'in_' || n, 1, 'pro', 2000, 2000, 'live', now() FROM generate_series(1, {count}) n;
INSERT INTO ledger_entries (account_id, kind, credits, grant_id, reference, balance_after, created_at)
SELECT n, 'grant', 2000, n, 'in_' || n || ':1', 2000, now() FROM generate_series(1, {count}) n;
INSERT INTO reservations (account_id, key, credits, used, sources, state, expires_at, created_at)
SELECT n, 'old', 1, 1, '[]', 'committed', now(), now() FROM generate_series(1, {count}) n;
INSERT INTO subscriptions (id, account_id, status, plan, quantity, latest_invoice, current_period_end,
    created_at)
SELECT 'sub_' || n, n, 'active', 'pro', 1, 'in_' || n, date_trunc('second', now()) + interval '20 days',
    now() - interval '40 days' FROM generate_series(1, {count}) n;
INSERT INTO checkout_sessions (id, account_id, mode, status, payment_status, plan, quantity, customer,
    subscription, invoice, expires_at, completed_at, checks_made, created_at)
SELECT 'cs_test_' || n, n, 'subscription', 'complete', 'paid', 'pro', 1, 'cus_' || n, 'sub_' || n, 'in_' || n,
    now() - interval '39 days', now() - interval '40 days', 1, now() - interval '40 days'
    FROM generate_series(1, {count}) n;
INSERT INTO stripe_events (id, type, api_version, payload, source, received_at, handled_at, attempts,
    outcome)
SELECT 'evt_' || n, CASE WHEN n % 100 = 0 THEN 'customer.created' ELSE 'invoice.paid' END, '{version}',
    '{{}}', 'webhook', now() - interval '40 days' * (n % 10 + 1) / 10, now(), 1,
    CASE WHEN n % 100 = 0 THEN 'unhandled_type' ELSE 'settled' END FROM generate_series(1, {count}) n;
INSERT INTO timeline (invoice, at, event_type, detail)
SELECT 'in_' || n, now() - interval '40 days', 'settled', '{{"via": "webhook"}}'
    FROM generate_series(1, {count}) n;
INSERT INTO event_endpoints (name, url, types, secret, state, disabled_because, from_settings, failures,
    created_at)
SELECT 'backend', 'https://backend.example/events', '[]', 'whsec_' || repeat('a', 32), 'disabled',
    'disabled by an operator', FALSE, 0, now();
INSERT INTO outbound_events (message, account_id, type, invoice, version, balance, data, fanned_out,
    created_at)
SELECT 'msg_' || n, n, 'credits.granted', 'in_' || n, 1, 2000, '{{}}', TRUE, now() - interval '20 days'
    FROM generate_series(1, {count}) n;
INSERT INTO event_deliveries (event_id, endpoint_id, account_id, state, attempts, delivered_at, status_code,
    created_at)
SELECT n, 1, n, 'delivered', 1, now() - interval '20 days', 200, now() - interval '20 days'
    FROM generate_series(1, {count}) n;
INSERT INTO audit_log (id, at, actor, action, account_id, key, digest, reason, details, before, after)
SELECT 'cor_' || n, now() - interval '1 second' * n, 'ada', 'adjust', n, 'T-' || n, repeat('0', 64), 'a gift',
    '{{}}', '{{}}', '{{}}' FROM generate_series(1, {count}) n;
INSERT INTO invoices (id, account_id, customer, payment_intent, plan, currency, amount_due_minor,
    credits_quoted, status, version, published_version, changed_at, checks_made, created_at)
SELECT 'in_due' || n, 1, 'cus_1', 'pi_due' || n, 'pro', 'usd', 2900, 2000, 'open', 1, 1, now(), 0, now()
    FROM generate_series(1, {due}) n;
INSERT INTO stripe_events (id, type, api_version, payload, source, received_at, attempts)
SELECT 'evt_due' || n, 'customer.created', '{version}',
    '{{"id":"evt_due' || n || '","type":"customer.created","livemode":false,'
    || '"data":{{"object":{{"id":"cus_1"}}}}}}',
    'webhook', now(), 0 FROM generate_series(1, {due}) n;
"""
DUE_AGAIN = (
    "UPDATE invoices SET next_check_at = now() - interval '1 second',"
    " publish_due_at = now() - interval '1 second', lease_expires_at = NULL WHERE id"
    " IN (SELECT 'in_due' || n FROM generate_series(1, 20) n)",
    "UPDATE stripe_events SET next_attempt_at = now() - interval '1 second', handled_at = NULL"
    " WHERE id IN (SELECT 'evt_due' || n FROM generate_series(1, 20) n)",
    "DELETE FROM watermarks",
)
"""Before each round of the sweeps, so that the same is due in each."""


def fill_sql(count: int) -> str:
    return _FILL.format(count=count, due=DUE, version=API_VERSION)


WITHOUT_KEYS = r"""
CREATE TABLE _keys AS SELECT conrelid::regclass::text AS of, conname AS name, contype AS kind,
    pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE contype IN ('p', 'u', 'f') AND connamespace = current_schema()::regnamespace;
CREATE TABLE _indexes AS SELECT i.indexrelid::regclass::text AS name,
    pg_get_indexdef(i.indexrelid) AS definition FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = current_schema()::regnamespace
    AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u'));
DO $$ DECLARE r record; BEGIN
FOR r IN SELECT * FROM _keys ORDER BY array_position(ARRAY['f', 'u', 'p']::"char"[], kind) LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', r.of, r.name); END LOOP;
FOR r IN SELECT * FROM _indexes LOOP EXECUTE 'DROP INDEX ' || r.name; END LOOP; END $$;
"""
WITH_KEYS = r"""
DO $$ DECLARE r record; BEGIN
FOR r IN SELECT * FROM _keys ORDER BY array_position(ARRAY['p', 'u', 'f']::"char"[], kind) LOOP
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', r.of, r.name, r.definition); END LOOP;
FOR r IN SELECT * FROM _indexes LOOP EXECUTE r.definition; END LOOP; END $$;
DROP TABLE _keys, _indexes;
"""
"""Very many rows are written sooner without keys and indexes, which are made afterwards."""
